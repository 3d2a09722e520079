"""Says which device runs what, and brings releases out wave by wave. What to do next is decided in ``plan``."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from skerry_cloud.fleet import plan
from skerry_cloud.store import Assignment, Bundle, Device, Event, Installed, Release, Rollout, Store
from skerry_shared import release, signing, states, wire
from skerry_shared.errors import NotFoundError, StateError, UsageError
from skerry_shared.release import Channel, Manifest, Target
from skerry_shared.states import ROLLOUT, RolloutEvent, Update

DAY = 86400
EVER = 100 * 365 * DAY
DEVICE_STATES = {state.value for state in Update}
SUBJECTS = ("agent", "runtime", "update")  # what a device may speak of; a rollout or an alarm is not its to tell

NOTHING: dict[str, Any] = {
    "rollout": 0, "release": 0, "path": "", "sha256": "", "length": 0, "target": Target("", "", "", ""), "mode": "drop",
}  # fmt: skip

Mode = Literal["serve", "shadow"]  # shadow: answer beside what serves, report, never switch


@dataclass(frozen=True)
class Order:
    """What an operator or the policy asks for.

    No devices means all that can run the release and do not, but for those from which the workload was taken.
    """

    workload: str
    release: int
    canary: int
    wave_seconds: float
    devices: tuple[str, ...] = ()
    mode: Mode = "serve"

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        if self.canary < 1 or self.wave_seconds <= 0:
            raise ValueError("canary and wave_seconds: need to be above 0")


@dataclass(frozen=True)
class Candidate:
    """A signed bundle of release 0: to be measured, never to serve."""

    workload: str
    path: str
    sha256: str
    length: int
    target: Target


async def channels(store: Store, device: str, workload: str, release: int) -> Sequence[Channel]:
    """Those of the baseline in the release's bundle for this device. Raises NotFoundError."""
    bundle = await store.get(Bundle, workload, release, (await store.get(Device, device)).profile)
    return _baseline(bundle.manifest)


class Director:
    """Owns assignments and rollouts. ``send`` passes a signed assignment to a device that is online.

    Rollouts of different workloads go on beside each other; a device has one assignment a workload.
    """

    def __init__(
        self,
        store: Store,
        key: Ed25519PrivateKey,
        fleet: str,
        assignment_days: int,
        send: Callable[[str, bytes], Awaitable[None]],
    ) -> None:
        """An assignment is good for ``assignment_days`` days."""
        self._store, self._key, self._fleet, self._send = store, key, fleet, send
        self._lifetime = assignment_days * DAY
        self._jobs: dict[str, bytes] = {}  # by device: the signed benchmark job that it has not answered yet

    async def start(self, order: Order, actor: str, now: float) -> Rollout:
        """Begin a rollout: its first wave is assigned at once. Raises StateError if one is under way already."""
        release = await self._store.get(Release, order.workload, order.release)
        devices = await self._candidates(order)
        waves = plan.plan_waves(devices, order.canary, f"{order.workload}/{order.release}")
        async with self._store.begin() as session:
            running = await session.scalar(
                select(Rollout).where(Rollout.workload == order.workload, Rollout.state == states.Rollout.RUNNING.value)
            )
            if running:
                raise StateError(f"rollout: {running.id} of {order.workload}/{running.release} is still running")
            rollout = Rollout(
                workload=release.workload, release=release.number, state=states.Rollout.RUNNING.value, waves=waves,
                wave_seconds=order.wave_seconds, wave_started=now, created=now, mode=order.mode,
            )  # fmt: skip
            session.add(rollout)
            await session.flush()
            why = f"{len(devices)} devices in {len(waves)} waves, canary: {', '.join(waves[0])}"
            session.add(_rollout_event(rollout, "", f"{rollout.state}, wave 1", why, actor, now))
            sent = await self._assign(session, rollout, waves[0], now)
        await self._deliver(sent)
        return rollout

    async def stop(self, number: int, actor: str, reason: str, now: float) -> Rollout:
        """Halt a rollout. Raises StateError if it is over."""
        rollout = await self._store.get(Rollout, number)
        states.step(ROLLOUT, states.Rollout(rollout.state), RolloutEvent.STOPPED)
        await self._advance(rollout, plan.Decision(RolloutEvent.STOPPED, reason), actor, now)
        return await self._store.get(Rollout, number)

    async def tick(self, now: float) -> None:
        """Take every running rollout as far as it goes."""
        query = select(Rollout).where(Rollout.state == states.Rollout.RUNNING.value)
        for rollout in await self._store.all(query):
            decision = plan.decide(await self._progress(rollout), now)
            try:
                if decision.event:
                    await self._advance(rollout, decision, "director", now)
            except NotFoundError as error:  # a device of the next wave was announced anew as something else
                await self._advance(rollout, plan.Decision(RolloutEvent.FAILED, str(error)), "director", now)

    async def drop(self, device: str, workload: str, actor: str, reason: str, now: float) -> Assignment:
        """Take a workload off a device, at once or whenever it comes back: this word does not expire.

        Raises NotFoundError if it was never assigned, StateError if that is said already or a rollout is under way.
        """
        async with self._store.begin() as session:
            newest = await _newest(session, device, workload)
            if newest is None:
                raise NotFoundError(f"device {device}: has no {workload}")
            if not newest.release:
                raise StateError(f"device {device}: is told to drop {workload} already; it is {newest.state}")
            await _check_idle(session, device, workload)
            dropped = await self._sign(session, device, now, EVER, workload=workload, **NOTHING)
            before, after = f"{workload}/{newest.release}", f"to drop {workload}"
            session.add(Event(time=now, kind="device", name=device, before=before, after=after, reason=reason,
                              actor=actor))  # fmt: skip
        await self._deliver([dropped])
        return dropped

    async def measure(self, device: str, candidate: Candidate, seconds: float, now: float) -> None:
        """Let a device measure a candidate within so many seconds.

        It is told again at each link, until ``measured`` or the end of this process: whoever asked is gone then too.
        """
        async with self._store.begin() as session:
            document, signed = await self._word(
                session, device, now, seconds, rollout=0, release=0, mode="measure", **vars(candidate)
            )
            session.add(Event(time=now, kind="device", name=device, after=f"to measure {candidate.path}",
                              reason=f"job {document.counter}", actor="director"))  # fmt: skip
        self._jobs[device] = signed
        await self._send(device, signed)

    def measured(self, device: str) -> None:
        """The device answered, or nobody waits for it any more."""
        self._jobs.pop(device, None)

    async def idle(self, profile: str) -> str | None:
        """A device of this profile that is linked and has nothing to do but to serve; None if there is none."""
        running = await self._store.all(select(Rollout).where(Rollout.state == states.Rollout.RUNNING.value))
        busy = {device for rollout in running for wave in rollout.waves for device in wave} | self._jobs.keys()
        query = select(Device).where(Device.state == "enrolled", Device.profile == profile, Device.link != "")
        linked = await self._store.all(query.order_by(Device.name))
        return next((device.name for device in linked if device.name not in busy), None)

    async def having(self, workload: str) -> tuple[str, ...]:
        """Enrolled devices that run some release of a workload, by name."""
        mine = select(Installed.device).where(Installed.workload == workload)
        query = select(Device).where(Device.state == "enrolled", Device.name.in_(mine)).order_by(Device.name)
        return tuple(device.name for device in await self._store.all(query))

    async def desired(self, device: str) -> list[bytes]:
        """The newest signed assignment of each workload that a device ever got, in the order in which it got them.

        Behind them the benchmark job that it has not answered.
        """
        query = select(Assignment).where(Assignment.device == device).order_by(Assignment.counter)
        newest = {assignment.workload: assignment for assignment in await self._store.all(query)}
        told = [assignment.signed for assignment in sorted(newest.values(), key=attrgetter("counter"))]
        return told + [job for name, job in self._jobs.items() if name == device]

    async def replay(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in rows of the lake that a crash kept from being heard: those whose event is not there."""
        async with self._store.begin() as session:
            known = set((await session.scalars(select(Event.origin).where(Event.origin.is_not(None)))).all())
        for row in sorted(rows, key=itemgetter("time", "counter", "row")):
            if origin_of(row) not in known:
                await self.report(row["device"], row, origin_of(row))

    async def report(self, device: str, row: Mapping[str, Any], origin: str) -> None:
        """Take in a device's own word: a row of the telemetry table ``events``. Counts once; other subjects do not."""
        if row["subject"] not in SUBJECTS:
            return
        async with self._store.begin() as session:
            if await session.scalar(select(Event).where(Event.origin == origin)):
                return
            session.add(_device_event(device, row, origin))
            if row["subject"] == "update":
                await _apply(session, device, row)

    async def _candidates(self, order: Order) -> list[str]:
        bundles = await self._store.all(
            select(Bundle).where(Bundle.workload == order.workload, Bundle.release == order.release)
        )
        profiles = {bundle.profile for bundle in bundles}
        enrolled = await self._store.all(select(Device).where(Device.state == "enrolled").order_by(Device.name))
        fit = {device.name: device for device in enrolled if device.profile in profiles}
        for name in order.devices:
            if name not in fit:
                raise UsageError(f"devices: {name} is not enrolled, or the release has no bundle for its profile")
        if order.devices:
            return list(order.devices)
        left_out = await self._left_out(order)
        return [name for name in fit if name not in left_out]

    async def _left_out(self, order: Order) -> set[str]:
        """Devices that run the release, and those from which an operator took the workload."""
        running = select(Installed).where(Installed.workload == order.workload, Installed.release == order.release)
        told = select(Assignment).where(Assignment.workload == order.workload).order_by(Assignment.counter)
        newest = {assignment.device: assignment.release for assignment in await self._store.all(told)}
        dropped = {device for device, release in newest.items() if not release}
        return dropped | {installed.device for installed in await self._store.all(running)}

    async def _progress(self, rollout: Rollout) -> plan.Progress:
        rows = await self._store.all(
            select(Assignment).where(Assignment.rollout == rollout.id).order_by(Assignment.counter)
        )
        told = {row.device: (row.state, row.reason) for row in rows}
        return plan.Progress(rollout.waves, rollout.wave, rollout.wave_started, rollout.wave_seconds, told)

    async def _advance(self, seen: Rollout, decision: plan.Decision, actor: str, now: float) -> None:
        assert decision.event
        async with self._store.begin() as session:
            rollout = await session.get_one(Rollout, seen.id, with_for_update=True)
            if (rollout.wave, rollout.state) != (seen.wave, seen.state):
                return  # somebody was quicker; the next look sees what is now
            before = rollout.state
            rollout.state = states.step(ROLLOUT, states.Rollout(before), decision.event).value
            rollout.reason = decision.reason
            after, sent = rollout.state, []
            if decision.event is RolloutEvent.WIDENED:
                rollout.wave, rollout.wave_started = rollout.wave + 1, now
                after = f"{rollout.state}, wave {rollout.wave + 1}"
                sent = await self._assign(session, rollout, rollout.waves[rollout.wave], now)
            session.add(_rollout_event(rollout, before, after, decision.reason, actor, now))
            if rollout.state == states.Rollout.HALTED.value:
                sent = await self._restore(session, rollout, now)
        await self._deliver(sent)

    async def _assign(
        self, session: AsyncSession, rollout: Rollout, devices: Sequence[str], now: float
    ) -> list[Assignment]:
        return [await self._issue(session, name, rollout, rollout.release, rollout.mode, now) for name in devices]

    async def _restore(self, session: AsyncSession, rollout: Rollout, now: float) -> list[Assignment]:
        """Devices with the halted release get back what they ran before; the others undid or refused it themselves."""
        query = select(Assignment).where(
            Assignment.rollout == rollout.id,
            Assignment.release == rollout.release,
            Assignment.state.not_in([state.value for state in plan.FAILED]),
        )
        issued = []
        for assignment in (await session.scalars(query)).all():
            earlier = await _last_healthy(session, assignment.device, rollout.workload, rollout.release)
            if earlier:
                issued.append(await self._issue(session, assignment.device, rollout, earlier.release, "serve", now))
        return issued

    async def _issue(
        self, session: AsyncSession, name: str, rollout: Rollout, number: int, mode: str, now: float
    ) -> Assignment:
        device = await session.get_one(Device, name)
        bundle = await session.get(Bundle, (rollout.workload, number, device.profile))
        if not bundle:
            raise NotFoundError(f"{rollout.workload}/{number} has no bundle for {name}, which is a {device.profile}")
        return await self._sign(
            session, name, now, self._lifetime, rollout=rollout.id, workload=rollout.workload, release=number,
            path=bundle.path, sha256=bundle.sha256, length=bundle.length,
            target=wire.from_json(Manifest, bundle.manifest).target, mode=mode,
        )  # fmt: skip

    async def _sign(self, session: AsyncSession, name: str, now: float, lifetime: float, **what: Any) -> Assignment:
        """The device's next assignment, good for ``lifetime`` seconds; ``what`` is to be done."""
        document, signed = await self._word(session, name, now, lifetime, **what)
        assignment = Assignment(
            device=name, counter=document.counter, rollout=document.rollout, workload=document.workload,
            release=document.release, signed=signed, state="issued", updated=now,
        )  # fmt: skip
        session.add(assignment)
        return assignment

    async def _word(
        self, session: AsyncSession, name: str, now: float, lifetime: float, **what: Any
    ) -> tuple[release.Assignment, bytes]:
        """The director's next word to a device, plain and signed."""
        device = await session.get_one(Device, name, with_for_update=True)
        device.counter += 1
        document = release.Assignment(
            fleet=self._fleet, device=name, counter=device.counter, issued=int(now), expires=int(now + lifetime),
            **what,
        )  # fmt: skip
        return document, wire.encode(signing.sign(document, self._key))

    async def _deliver(self, assignments: Sequence[Assignment]) -> None:
        for assignment in assignments:
            await self._send(assignment.device, assignment.signed)


def origin_of(row: Mapping[str, Any]) -> str:
    """What names a row of the lake for ever."""
    return f"{row['device']}/{row['session']}/{row['counter']}/{row['row']}"


async def _apply(session: AsyncSession, name: str, row: Mapping[str, Any]) -> None:
    query = select(Assignment).where(
        Assignment.device == name,
        Assignment.rollout == row["rollout"],
        Assignment.workload == row["workload"],
        Assignment.release == row["release"],
    )
    assignment = (await session.scalars(query.order_by(Assignment.counter.desc()))).first()
    if assignment is None or row["to"] not in DEVICE_STATES or row["time"] < assignment.updated:
        return  # not one of ours, or overtaken: an older word may arrive later, at a replay
    assignment.state, assignment.reason, assignment.updated = row["to"], row["reason"], row["time"]
    if row["to"] in (Update.PROVING.value, Update.HEALTHY.value):
        await _note_installed(session, name, row["workload"], row["release"])
    elif row["to"] == Update.UNDONE.value:
        earlier = await _last_healthy(session, name, row["workload"], row["release"])
        await _note_installed(session, name, row["workload"], earlier.release if earlier else 0)
    elif row["to"] == Update.DROPPED.value:
        await _note_installed(session, name, row["workload"], 0)


async def _note_installed(session: AsyncSession, device: str, workload: str, release: int) -> None:
    if release:
        await session.merge(Installed(device=device, workload=workload, release=release))
    elif installed := await session.get(Installed, (device, workload)):
        await session.delete(installed)


async def _newest(session: AsyncSession, device: str, workload: str) -> Assignment | None:
    query = select(Assignment).where(Assignment.device == device, Assignment.workload == workload)
    return (await session.scalars(query.order_by(Assignment.counter.desc()))).first()


@lru_cache(maxsize=256)
def _baseline(manifest: str) -> Sequence[Channel]:
    return wire.from_json(Manifest, manifest).baseline


async def _check_idle(session: AsyncSession, device: str, workload: str) -> None:
    """Raises StateError while a rollout of the workload is under way that has this device in a wave."""
    query = select(Rollout).where(Rollout.workload == workload, Rollout.state == states.Rollout.RUNNING.value)
    for rollout in (await session.scalars(query)).all():
        if any(device in wave for wave in rollout.waves):
            raise StateError(f"device {device}: rollout {rollout.id} of {workload} is still running; halt it first")


async def _last_healthy(session: AsyncSession, device: str, workload: str, other_than: int) -> Assignment | None:
    """What the device can go back to: nothing that lies before the workload was taken off it."""
    healthy = (Assignment.release != other_than) & (Assignment.state == Update.HEALTHY.value)
    query = select(Assignment).where(
        Assignment.device == device, Assignment.workload == workload, healthy | (Assignment.release == 0)
    )
    last = (await session.scalars(query.order_by(Assignment.counter.desc()))).first()
    return last if last and last.release else None


def _rollout_event(rollout: Rollout, before: str, after: str, reason: str, actor: str, now: float) -> Event:
    name = f"{rollout.id} {rollout.workload}/{rollout.release}"
    return Event(time=now, kind="rollout", name=name, before=before, after=after, reason=reason, actor=actor)


def _device_event(device: str, row: Mapping[str, Any], origin: str) -> Event:
    model = f"{row['workload']}/{row['release']}" if row["release"] else row["workload"]
    name = f"{device} {model}" if model else device
    return Event(
        time=row["time"], kind=row["subject"], name=name, before=row["from"], after=row["to"], reason=row["reason"],
        actor=device, origin=origin,
    )  # fmt: skip
