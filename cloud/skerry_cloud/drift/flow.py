"""From windows of counts to alarms: finds what each device is compared with, folds its windows, records what fires.

What the watch knows is kept with the alarms that it raised, in one transaction, and now and then in between. A start
takes it up from there and folds what came to the lake since: nothing is folded twice, no alarm raised twice.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import select

from skerry_cloud.alarms import move, raise_, unresolved
from skerry_cloud.drift import checkpoint
from skerry_cloud.drift.finding import DATA_QUALITY, DRIFT, Alarm, Place, summary
from skerry_cloud.drift.traffic import Known, Window
from skerry_cloud.drift.watch import Key, Watch
from skerry_cloud.store import Alarm as AlarmRow
from skerry_cloud.store import Checkpoint, Device, Store
from skerry_shared.errors import InputError, NotFoundError
from skerry_shared.release import Channel
from skerry_shared.states import AlarmEvent, Health

log = logging.getLogger(__name__)

NAME = ACTOR = "drift"
EVERY = 60.0  # seconds between two checkpoints
LATE = 3600.0  # seconds by which the ingest's clock may have been set back between two commits

Normal = Callable[[str, str, int], Awaitable[Sequence[Channel]]]  # what is normal for a key; raises NotFoundError
Scan = Callable[[pc.Expression | None], Awaitable[pa.Table]]  # rows of table ``windows`` that pass a filter


class DriftFlow:
    """Takes in rows of table ``windows``, raises alarms."""

    def __init__(self, store: Store, days: float, tolerance: float, normal: Normal) -> None:
        """``days`` and ``tolerance``: see ``Watch``."""
        self._store, self._normal = store, normal
        self._days, self._tolerance = days, tolerance
        self._watch, self._saved = Watch(days, tolerance), 0.0
        self._channels: dict[Key, Sequence[Channel]] = {}
        self._taken: dict[str, tuple[int, float]] = {}  # session: its last counter, and when that was received

    async def start(self, scan: Scan) -> None:
        """Take up what the last process knew, and fold what came to the lake since."""
        found = await self._store.first(select(Checkpoint).where(Checkpoint.name == NAME))
        if found:
            self._restore(found.data)
        newest = max((received for _, received in self._taken.values()), default=0.0)
        await self.take(await scan(pc.field("received") >= newest - LATE if newest else None))

    async def take(self, rows: pa.Table) -> None:
        """Take in new windows; those that were taken before change nothing."""
        rows = rows.filter(pa.array(self._new(rows), pa.bool_()))
        await self._reset_resolved()
        windows = list(windows_of(rows))
        alarms = self._watch.fold(windows, await self._known({window.key for window in windows}))
        now = max((received for _, received in self._taken.values()), default=0.0)
        if alarms or now - self._saved >= EVERY:
            await self._record(alarms, now)

    async def _record(self, alarms: Sequence[Alarm], now: float) -> None:
        self._taken = {name: last for name, last in self._taken.items() if last[1] >= now - LATE}
        async with self._store.begin() as session:
            for alarm in alarms:
                row = await unresolved(session, alarm.place.level, alarm.place.name, alarm.place.workload)
                if row:
                    _worsen(row, alarm)
                    move(session, row, AlarmEvent.WORSENED, summary(alarm), ACTOR, now)
                else:
                    await raise_(session, _row(alarm, now), ACTOR)
            await session.merge(Checkpoint(name=NAME, time=now, data=self._dump()))
        self._saved = now

    def _dump(self) -> bytes:
        head = json.dumps(self._taken).encode()
        return len(head).to_bytes(4, "big") + head + checkpoint.dump(self._watch.state)

    def _restore(self, data: bytes) -> None:
        size = 4 + int.from_bytes(data[:4], "big")
        try:
            self._watch = Watch(self._days, self._tolerance, checkpoint.load(data[size:], self._tolerance))
        except InputError as error:
            log.warning("drift is judged anew from all windows: %s", error)
            return
        self._taken = {name: (counter, received) for name, (counter, received) in json.loads(data[4:size]).items()}

    def _new(self, rows: pa.Table) -> list[bool]:
        """Which rows were not taken before. A batch's rows come together, a session's batches in order."""
        before = dict(self._taken)
        new = []
        for device, session, counter, received in _columns(rows, "device", "session", "counter", "received"):
            name = f"{device}/{session}"
            new.append(counter > before.get(name, (0, 0.0))[0])
            if counter > self._taken.get(name, (0, 0.0))[0]:
                self._taken[name] = counter, received
        return new

    async def _known(self, keys: set[Key]) -> Mapping[Key, Known]:
        names = sorted({device for device, _, _ in keys})
        devices = await self._store.all(select(Device).where(Device.name.in_(names)))
        groups = {device.name: device.group for device in devices}
        for key in keys - self._channels.keys():
            self._channels[key] = await self._find_normal(key)
        return {key: Known(self._channels[key], groups.get(key[0], "")) for key in keys}

    async def _find_normal(self, key: Key) -> Sequence[Channel]:
        """What is normal for a key; nothing, so that nothing is judged, for a release that is not ours."""
        try:
            return await self._normal(*key)
        except NotFoundError as error:
            log.warning("windows of %s are not judged: %s", key, error)
            return ()

    async def _reset_resolved(self) -> None:
        """A place whose alarm was resolved is judged anew."""
        if self._watch.alarmed:
            alarms = await self._store.all(select(AlarmRow).where(AlarmRow.state != "resolved"))
            for place in self._watch.alarmed - {place_of(alarm) for alarm in alarms}:
                self._watch.reset(place)


def place_of(alarm: AlarmRow) -> Place:
    """Where the alarm is about."""
    return Place(alarm.level, alarm.name, alarm.workload, alarm.release)


def windows_of(rows: pa.Table) -> Iterator[Window]:
    """Rows of table ``windows``."""
    rows = rows.combine_chunks()
    names = ("device", "workload", "release", "start", "end", "channel")
    lists = pa.concat_arrays(rows["counts"].chunks) if rows.num_rows else pa.array([], pa.list_(pa.int64()))
    flat = lists.flatten().to_numpy()
    ends = pc.cumulative_sum(pc.list_value_length(lists)).to_pylist()
    for values, (begin, end) in zip(_columns(rows, *names), pairwise([0, *ends]), strict=True):
        yield Window._make((*values, flat[begin:end]))


def _row(alarm: Alarm, now: float) -> AlarmRow:
    channels = [asdict(culprit) for culprit in alarm.channels]
    return AlarmRow(
        **alarm.place._asdict(), devices=list(alarm.devices), kind=alarm.kind, health=alarm.kind, state="open",
        opened=now, since=alarm.since, raised=alarm.at, summary=summary(alarm), detail={"channels": channels},
    )  # fmt: skip


def _worsen(row: AlarmRow, alarm: Alarm) -> None:
    """Note on an alarm that its place changed further, or that another release there drifts as well."""
    news = {culprit.channel: asdict(culprit) for culprit in alarm.channels}
    told = [channel for channel in row.detail["channels"] if channel["channel"] not in news]
    row.detail = row.detail | {"channels": [*news.values(), *told]}
    if not alarm.again:
        row.release, row.devices, row.raised, row.health = (
            alarm.place.release,
            list(alarm.devices),
            alarm.at,
            alarm.kind,
        )
    if alarm.kind == DRIFT and row.kind == DATA_QUALITY:
        row.kind, row.health = DRIFT, Health.DRIFT.value


def _columns(rows: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(rows[name].to_pylist() for name in names), strict=True)
