import asyncio
from pathlib import Path

import pyarrow as pa
from sqlalchemy import select

from skerry_cloud.ingest import batches
from skerry_cloud.ingest.lake import QUARANTINE, Lake
from skerry_cloud.ingest.quarantine import PAUSE, Refusals, quarantined
from skerry_cloud.store import Event, Store, migrate
from skerry_shared.telemetry import Header


def refused(*counters: int, device: str = "a", reason: str = "labels.time: a value is null") -> pa.Table:
    headers = [Header(device, b"s" * 16, counter, "labels") for counter in counters]
    return batches.refuse([(header, b"1234", reason) for header in headers], 5.0)


def test_an_operator_hears_of_a_device_whose_batches_do_not_fit_once_an_hour(tmp_path: Path) -> None:
    url, now = f"sqlite+aiosqlite:///{tmp_path}/db", [0.0]
    migrate(url)

    async def run() -> None:
        store = Store(url)
        refusals = Refusals(store, lambda: now[0])
        for rows in (refused(1, 2), refused(3), refused(4, device="b", reason="table: no 'gossip'")):
            await refusals.take(rows)
        now[0] = PAUSE
        await refusals.take(refused(5))
        events = await store.all(select(Event).where(Event.after == "quarantined").order_by(Event.id))
        assert [(event.name, event.reason) for event in events] == [
            ("a", "batches: 2, the newest of labels: labels.time: a value is null"),
            ("b", "batches: 1, the newest of labels: table: no 'gossip'"),
            ("a", "batches: 2, the newest of labels: labels.time: a value is null"),
        ]
        await store.close()

    asyncio.run(run())


def test_the_quarantine_is_summed_up_by_device_table_and_reason(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append(QUARANTINE, refused(1, 2, 3), {"a": 3})
    (row,) = quarantined(lake)
    assert (row["device"], row["table"], row["batches"], row["bytes"], row["first"]) == ("a", "labels", 3, 12, 5.0)
