"""From windows of counts to alarms: finds what each device is compared with, folds its windows, records what fires.

The watch is rebuilt from the lake when the cloud starts, so it has no state of its own to lose. A model on a device has
one open alarm at most; once that is resolved, it is judged anew.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa
from sqlalchemy import select

from skerry_cloud.drift.watch import Alarm, Watch, summary
from skerry_cloud.store import Alarm as AlarmRow
from skerry_cloud.store import Event, Store
from skerry_shared.errors import NotFoundError
from skerry_shared.release import Channel

log = logging.getLogger(__name__)

Key = tuple[str, str, int]  # device, workload, release
Normal = Callable[[str, str, int], Awaitable[Sequence[Channel]]]  # what is normal for a key; raises NotFoundError

KEY = itemgetter("device", "workload", "release")


class DriftFlow:
    """Takes in rows of table ``windows``, raises alarms."""

    def __init__(self, store: Store, run_length: int, normal: Normal) -> None:
        """``run_length``: windows between false alarms of one model on one device, on average and at least."""
        self._store, self._normal, self._watch = store, normal, Watch(run_length)
        self._known: dict[Key, Sequence[Channel]] = {}
        self._alarmed: set[Key] = set()

    async def replay(self, rows: pa.Table) -> None:
        """Take in all windows of the past. What they raise that was raised before is not raised again."""
        for alarm in await self._fold(rows.to_pylist()):
            raised = select(AlarmRow).where(*_about(alarm.device, alarm.workload, alarm.release))
            if not await self._store.first(raised):
                await self._record(alarm)

    async def take(self, rows: pa.Table) -> None:
        """Take in new windows."""
        found = rows.to_pylist()
        for key in self._alarmed & set(map(KEY, found)):
            if not await self._store.first(select(AlarmRow).where(*_about(*key), AlarmRow.state == "open")):
                self._watch.reset(*key)
                self._alarmed.discard(key)
        for alarm in await self._fold(found):
            await self._record(alarm)

    async def _fold(self, rows: Iterable[Mapping[str, Any]]) -> list[Alarm]:
        alarms = []
        for key, group in groupby(sorted(rows, key=KEY), key=KEY):
            if key not in self._known:
                self._known[key] = await self._find_normal(key)
            alarms += self._watch.fold(group, {key[1:]: self._known[key]})
        self._alarmed |= {(alarm.device, alarm.workload, alarm.release) for alarm in alarms}
        return alarms

    async def _find_normal(self, key: Key) -> Sequence[Channel]:
        """What is normal for a key; nothing, so that nothing is judged, for a release that is not ours."""
        try:
            return await self._normal(*key)
        except NotFoundError as error:
            log.warning("windows of %s are not judged: %s", key, error)
            return ()

    async def _record(self, alarm: Alarm) -> None:
        row = AlarmRow(
            device=alarm.device, workload=alarm.workload, release=alarm.release, state="open", since=alarm.since,
            raised=alarm.at, summary=summary(alarm), detail=asdict(alarm),
        )  # fmt: skip
        async with self._store.begin() as session:
            session.add(row)
            await session.flush()
            session.add(Event(time=alarm.at, kind="alarm", name=f"{row.id} {alarm.device}", after="open",
                              reason=row.summary, actor="drift"))  # fmt: skip


def _about(device: str, workload: str, release: int) -> tuple[Any, ...]:
    return AlarmRow.device == device, AlarmRow.workload == workload, AlarmRow.release == release
