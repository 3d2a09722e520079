"""What happens to an alarm: its state, an event, and a notice in the outbox, all in the caller's transaction.

So a change cannot be without its notice, nor a notice without its change, whenever the process dies. ``notify`` brings
the notices out.
"""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from skerry_cloud.store import Alarm, Event, Notice, Release, plain
from skerry_shared.errors import NotFoundError
from skerry_shared.states import ALARM, HEALTH, AlarmEvent, Health, HealthEvent, step
from skerry_shared.states import Alarm as State

OPENED = "opened"


async def raise_(session: AsyncSession, alarm: Alarm, actor: str) -> None:
    """A new alarm; until it is assigned it is its release's owner's."""
    release = await session.get(Release, (alarm.workload, alarm.release))
    alarm.owner = release.owner if release else ""
    session.add(alarm)
    await session.flush()
    _record(session, alarm, OPENED, "", alarm.summary, actor, alarm.opened)


def move(session: AsyncSession, alarm: Alarm, event: AlarmEvent, reason: str, actor: str, now: float) -> None:
    """The alarm after ``event``; what is resolved is healthy again. Raises StateError, having changed nothing."""
    before, alarm.state = alarm.state, step(ALARM, State(alarm.state), event).value
    if event == AlarmEvent.RESOLVED:
        alarm.health = step(HEALTH, Health(alarm.health), HealthEvent.RESOLVED).value
    _record(session, alarm, event.value, before, reason, actor, now)


def assign(session: AsyncSession, alarm: Alarm, owner: str, reason: str, actor: str, now: float) -> None:
    """To another owner. Raises StateError, having changed nothing."""
    why = f"{alarm.owner or 'nobody'} gives it to {owner}: {reason}"
    step(ALARM, State(alarm.state), AlarmEvent.ASSIGNED)
    alarm.owner = owner
    move(session, alarm, AlarmEvent.ASSIGNED, why, actor, now)


def escalate(session: AsyncSession, alarm: Alarm, reached: int, reason: str, now: float) -> None:
    """To this step: the routes of all steps on the way are told, and no others. Raises StateError."""
    step(ALARM, State(alarm.state), AlarmEvent.ESCALATED)
    first, alarm.step = alarm.step + 1, reached
    _record(session, alarm, AlarmEvent.ESCALATED.value, alarm.state, reason, "cloud", now, first)


async def get(session: AsyncSession, number: int) -> Alarm:
    """Raises NotFoundError."""
    alarm = await session.get(Alarm, number)
    if alarm is None:
        raise NotFoundError(f"alarm: no {number}; `skerry drift list` shows all")
    return alarm


async def unresolved(session: AsyncSession, level: str, name: str, workload: str) -> Alarm | None:
    """The alarm of this place and workload that is not resolved, if there is one."""
    here = select(Alarm).where(Alarm.level == level, Alarm.name == name, Alarm.workload == workload)
    return (await session.scalars(here.where(Alarm.state != State.RESOLVED.value))).first()


def _record(
    session: AsyncSession, alarm: Alarm, what: str, before: str, reason: str, actor: str, now: float, first: int = 0
) -> None:
    session.add(Event(time=now, kind="alarm", name=alarm.title, before=before, after=alarm.state, reason=reason,
                      actor=actor))  # fmt: skip
    body = {"what": what, "time": now, "reason": reason, "actor": actor, "alarm": plain(alarm)}
    session.add(Notice(alarm=alarm.id, time=now, what=what, first=first, last=alarm.step, body=body))
