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
from skerry_cloud.drift.finding import DATA_QUALITY, DEVICE, DRIFT, Alarm, Place, summary
from skerry_cloud.drift.rebase import applied, rebased
from skerry_cloud.drift.traffic import Known, Window, pools_of
from skerry_cloud.drift.watch import Key, Watch
from skerry_cloud.store import Alarm as AlarmRow
from skerry_cloud.store import Baseline, Checkpoint, Device, Event, Store
from skerry_shared.config import decode
from skerry_shared.errors import InputError, NotFoundError, StateError
from skerry_shared.release import Channel
from skerry_shared.states import AlarmEvent, Health

log = logging.getLogger(__name__)

NAME = ACTOR = "drift"
IN_FORCE, TAKEN_BACK = "in force", "taken back"  # states of baselines
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
        self._scan: Scan
        self._channels: dict[tuple[Key, str], Sequence[Channel]] = {}  # by key and group
        self._taken: dict[str, tuple[int, float]] = {}  # session: its last counter, and when that was received

    async def start(self, scan: Scan) -> None:
        """Take up what the last process knew, and fold what came to the lake since."""
        self._scan = scan
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

    async def normal(self, device: str, workload: str, release: int) -> Sequence[Channel]:
        """What a device's traffic is compared with: the release's reference, or what was put in its place."""
        row = await self._store.get(Device, device)
        return await self._normal_in((device, workload, release), row.group)

    async def _normal_in(self, key: Key, group: str) -> Sequence[Channel]:
        device, workload, release = key
        found = await self._normal(device, workload, release)
        mine = select(Baseline).where(Baseline.workload == workload, Baseline.release == release)
        for baseline in await self._store.all(mine.where(Baseline.state == IN_FORCE).order_by(Baseline.id)):
            if (baseline.level, baseline.name) in ((DEVICE, device), *pools_of(group)):
                found = applied(found, (decode(Channel, told, "baseline") for told in baseline.channels["channels"]))
        return found

    async def rebase(self, place: Place, since: float, reason: str, actor: str, now: float) -> Baseline:
        """What its devices sent since then (Unix seconds) is normal at this place from now on; its alarms are resolved.

        Raises NotFoundError if no device of the place sent windows since then, InputError if they are too few.
        """
        devices = await self._devices(place)
        mine = pc.field("workload").isin([place.workload]) & pc.field("device").isin(devices)
        rows = await self._scan(mine & (pc.field("release") == place.release) & (pc.field("start") >= since))
        windows = list(windows_of(rows))
        if not windows:
            raise NotFoundError(f"windows: none of {place} since then")
        normal = {name: await self._normal(name, *place.model) for name in {window.device for window in windows}}
        channels = [asdict(channel) for channel in rebased(normal, windows)]
        row = Baseline(**place._asdict(), since=since, created=now, reason=reason, channels={"channels": channels})
        async with self._store.begin() as session:
            session.add(row)
            await session.flush()
            session.add(Event(time=now, kind="baseline", name=row.title, after=IN_FORCE, reason=reason, actor=actor))
            about = select(AlarmRow).where(AlarmRow.workload == place.workload, AlarmRow.release == place.release)
            for alarm in (await session.scalars(about.where(AlarmRow.state != "resolved"))).all():
                if set(alarm.devices) <= set(devices):
                    move(session, alarm, AlarmEvent.RESOLVED, f"baseline {row.id}: {reason}", actor, now)
        self._channels.clear()
        return row

    async def take_back(self, number: int, reason: str, actor: str, now: float) -> Baseline:
        """What was normal before is so again. Raises NotFoundError, StateError."""
        async with self._store.begin() as session:
            row = await session.get(Baseline, number)
            if row is None:
                raise NotFoundError(f"baseline: no {number}; `skerry drift baselines` shows all")
            if row.state != IN_FORCE:
                raise StateError(f"baseline: {number} is {row.state} already")
            row.state = TAKEN_BACK
            session.add(Event(time=now, kind="baseline", name=row.title, before=IN_FORCE, after=TAKEN_BACK,
                              reason=reason, actor=actor))  # fmt: skip
        self._channels.clear()
        return row

    async def _devices(self, place: Place) -> list[str]:
        """Who belongs to it. Raises NotFoundError for a device or group that does not exist."""
        known = await self._store.all(select(Device))
        found = [row.name for row in known if (place.level, place.name) in ((DEVICE, row.name), *pools_of(row.group))]
        if not found:
            raise NotFoundError(f"{place.level}: no {place.name or 'device'}")
        return found

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
        members = {(key, groups.get(key[0], "")) for key in keys}
        for member in members - self._channels.keys():
            self._channels[member] = await self._find_normal(*member)
        return {key: Known(self._channels[key, group], group) for key, group in members}

    async def _find_normal(self, key: Key, group: str) -> Sequence[Channel]:
        """What is normal for a key; nothing, so that nothing is judged, for a release that is not ours."""
        try:
            return await self._normal_in(key, group)
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
