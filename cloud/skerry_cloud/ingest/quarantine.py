"""Batches that opened but did not fit: what is kept of them, and an event that says so."""

import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from skerry_cloud.ingest.lake import QUARANTINE, Lake
from skerry_cloud.store import Event, Store

PAUSE = 3600.0  # seconds between two events about a device: it may have been taken over, and events are for people


class Refusals:
    """Tells in an event that a device's batches are quarantined: how many since the last event, and why the newest."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._counts: dict[str, int] = {}  # batches that no event told of yet
        self._told: dict[str, float] = {}

    async def take(self, rows: pa.Table) -> None:
        """New rows of the quarantine."""
        now, newest = (
            self._clock(),
            {row["device"]: row for row in rows.select(["device", "table", "reason"]).to_pylist()},
        )
        for device in rows["device"].to_pylist():
            self._counts[device] = self._counts.get(device, 0) + 1
        due = [row for device, row in newest.items() if now - self._told.get(device, -PAUSE) >= PAUSE]
        async with self._store.begin() as session:
            session.add_all(self._event(row, now) for row in due)
        for row in due:
            self._told[row["device"]] = now
            del self._counts[row["device"]]

    def _event(self, row: dict[str, Any], now: float) -> Event:
        reason = f"batches: {self._counts[row['device']]}, the newest of {row['table']}: {row['reason']}"
        return Event(time=now, kind="device", name=row["device"], after="quarantined", reason=reason, actor="ingest")


def quarantined(lake: Lake) -> list[dict[str, Any]]:
    """By device, table and reason: batches, bytes of their payloads, first and last (Unix seconds)."""
    names = ["device", "table", "reason"]
    rows = lake.scan(QUARANTINE, [*names, "payload", "received"])
    rows = rows.append_column("bytes", pc.binary_length(rows["payload"])).drop_columns(["payload"])
    sums = [("received", "count"), ("bytes", "sum"), ("received", "min"), ("received", "max")]
    found = rows.group_by(names).aggregate(sums).rename_columns([*names, "batches", "bytes", "first", "last"])
    told: list[dict[str, Any]] = found.sort_by([(name, "ascending") for name in names]).to_pylist()
    return told
