"""Brings alarms out: from the outbox over every route that is concerned, at least once, however often anybody dies.

    a change of an alarm, its event and its notice       one transaction, see ``alarms``
    notice → a delivery for each route                   one transaction
    delivery → the other side has it → "told"            what dies in between is told again, under the same id

A delivery that fails waits, longer each time; what cannot be told for days is given up, which is an event. Who does not
acknowledge an alarm in time has the contacts of the next step of escalation told, once each.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from skerry_cloud import alarms
from skerry_cloud.notices import Carrier, Message
from skerry_cloud.notify.plan import Waiting, next_up, pause, step_reached
from skerry_cloud.store import Alarm, Delivery, Event, Notice, Store, plain
from skerry_shared.errors import LinkError
from skerry_shared.states import Alarm as State

log = logging.getLogger(__name__)

RENEWAL = 300.0  # seconds between two reminders to those who forget
WAITING, TOLD, GIVEN_UP = "waiting", "told", "given up"


@dataclass(frozen=True)
class Route:
    """A carrier, from which step of escalation on it is used, and for which workloads (none: for all)."""

    carrier: Carrier
    step: int = 0
    workloads: tuple[str, ...] = ()

    def takes(self, notice: Notice) -> bool:
        """Is it concerned?"""
        mine = not self.workloads or notice.body["alarm"]["workload"] in self.workloads
        return mine and notice.first <= self.step <= notice.last


class Notifier:
    """Looks, decides by ``plan``, tells."""

    def __init__(
        self, store: Store, fleet: str, routes: Mapping[str, Route], escalate_seconds: float, give_up_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """``routes`` by name; ``clock`` gives Unix seconds."""
        self._store, self._fleet, self._routes, self._clock = store, fleet, routes, clock
        self._escalate_seconds, self._give_up_seconds = escalate_seconds, give_up_seconds
        self._highest = max((route.step for route in routes.values()), default=0)
        self._renewed = 0.0

    async def tick(self) -> None:
        """Escalate, address, deliver."""
        await self._escalate()
        await self._address()
        waiting = await self._waiting()
        await asyncio.gather(*(self._deliver(name, waiting[name]) for name in self._routes if waiting[name]))
        await self._renew()

    async def _escalate(self) -> None:
        if not self._highest:
            return
        now = self._clock()
        for found in await self._store.all(select(Alarm).where(Alarm.state == State.OPEN.value)):
            if step_reached(found.opened, now, self._escalate_seconds, self._highest) > found.step:
                await self._escalate_one(found.id, now)

    async def _escalate_one(self, number: int, now: float) -> None:
        async with self._store.begin() as session:
            alarm = await alarms.get(session, number)
            reached = step_reached(alarm.opened, now, self._escalate_seconds, self._highest)
            if alarm.state == State.OPEN.value and reached > alarm.step:
                hours = (now - alarm.opened) / 3600
                why = f"nobody acknowledged it for {hours:.1f} hours: step {reached} of {self._highest}"
                alarms.escalate(session, alarm, reached, why, now)

    async def _address(self) -> None:
        """From the outbox to one delivery a route; a notice for nobody is done with."""
        if not await self._store.first(select(Notice).where(~Notice.addressed)):
            return
        async with self._store.begin() as session:
            for notice in (await session.scalars(select(Notice).where(~Notice.addressed))).all():
                notice.addressed = True
                for name, route in self._routes.items():
                    if route.takes(notice):
                        session.add(Delivery(notice=notice.id, route=name, due=self._clock()))

    async def _waiting(self) -> defaultdict[str, list[Waiting]]:
        found = defaultdict[str, list[Waiting]](list)
        deliveries = await self._store.all(select(Delivery).where(Delivery.state == WAITING))
        if deliveries:
            numbers = {delivery.notice for delivery in deliveries}
            notices = await self._store.all(select(Notice).where(Notice.id.in_(numbers)))
            about = {notice.id: notice.alarm for notice in notices}
            for one in deliveries:
                found[one.route].append(Waiting(one.notice, about[one.notice], one.due))
        return found

    async def _deliver(self, name: str, waiting: Sequence[Waiting]) -> None:
        """What is due on this route, until one fails."""
        for one in next_up(waiting, self._clock()):
            notice = await self._store.get(Notice, one.notice)
            error = await self._tell(name, notice)
            await self._note(name, notice, error)
            if error:
                return

    async def _tell(self, name: str, notice: Notice) -> str:
        """Why it was not told; "" if it was."""
        try:
            await asyncio.to_thread(self._routes[name].carrier.tell, _message(notice, self._fleet))
        except LinkError as error:
            log.warning("route %s: %s", name, error)
            return str(error)
        return ""

    async def _note(self, name: str, notice: Notice, error: str) -> None:
        now = self._clock()
        async with self._store.begin() as session:
            delivery = await session.get_one(Delivery, (notice.id, name))
            delivery.attempts, delivery.error = delivery.attempts + 1, error
            delivery.state, delivery.due = (WAITING, now + pause(delivery.attempts)) if error else (TOLD, now)
            if error and now - notice.time > self._give_up_seconds:
                delivery.state = GIVEN_UP
                why = f"alarm {notice.alarm} {notice.what} could not be told: {error}"
                session.add(Event(time=now, kind="notice", name=name, before=WAITING, after=GIVEN_UP, reason=why,
                                  actor="cloud"))  # fmt: skip

    async def _renew(self) -> None:
        now = self._clock()
        if now - self._renewed < RENEWAL:
            return
        self._renewed = now
        unresolved = await self._store.all(select(Alarm).where(Alarm.state != State.RESOLVED.value))
        for name, route in self._routes.items():
            mine = [alarm for alarm in unresolved if not route.workloads or alarm.workload in route.workloads]
            messages = [_reminder(alarm, self._fleet, now) for alarm in mine if route.step <= alarm.step]
            try:
                await asyncio.to_thread(route.carrier.renew, messages)
            except LinkError as error:
                log.warning("route %s: %s", name, error)


def _message(notice: Notice, fleet: str) -> Message:
    return Message(id=f"{fleet}-notice-{notice.id}", fleet=fleet, **notice.body)


def _reminder(alarm: Alarm, fleet: str, now: float) -> Message:
    return Message(f"{fleet}-alarm-{alarm.id}", fleet, alarm.state, now, alarm.summary, "cloud", plain(alarm))
