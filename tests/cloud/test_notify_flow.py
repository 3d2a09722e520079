from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import select

from skerry_cloud import alarms
from skerry_cloud.notices import Message
from skerry_cloud.notify import flow
from skerry_cloud.notify.flow import Notifier, Route
from skerry_cloud.store import Alarm, Delivery, Event, Notice, Release, Store
from skerry_shared.errors import LinkError, NotFoundError, StateError
from skerry_shared.states import AlarmEvent

NOW = 1_800_000_000.0
HOUR = 3600.0


class Ear:
    """A carrier that keeps what it was told, or is away."""

    def __init__(self) -> None:
        self.told: list[Message] = []
        self.reminded: list[list[str]] = []
        self.away = False

    def tell(self, message: Message) -> None:
        if self.away:
            raise LinkError("away")
        self.told.append(message)

    def renew(self, unresolved: Sequence[Message]) -> None:
        self.reminded.append([message.id for message in unresolved])

    @property
    def whats(self) -> list[tuple[int, str]]:
        return [(message.alarm["id"], message.what) for message in self.told]


class World:
    def __init__(self, store: Store) -> None:
        self.store, self.now = store, NOW
        self.duty, self.chief, self.other = Ear(), Ear(), Ear()
        self.routes = {"duty": Route(self.duty), "chief": Route(self.chief, 1), "other": Route(self.other, 0, ("x",))}
        self.notifier = self.start()

    def start(self) -> Notifier:
        return Notifier(self.store, "main", self.routes, 4 * HOUR, 48 * HOUR, lambda: self.now)

    async def open(self, name: str = "edge-1") -> int:
        row = Alarm(level="device", name=name, devices=[name], workload="w", release=1, kind="drift", health="drift",
                    state="open", opened=self.now, since=1.0, raised=2.0, summary="it drifts", detail={})  # fmt: skip
        async with self.store.begin() as session:
            await alarms.raise_(session, row, "drift")
        return row.id

    async def move(self, number: int, event: AlarmEvent) -> None:
        async with self.store.begin() as session:
            alarms.move(session, await alarms.get(session, number), event, "why", "operator", self.now)

    async def later(self, seconds: float) -> None:
        self.now += seconds
        await self.notifier.tick()


def tell(with_store: Callable[[Any], None], story: Any) -> None:
    async def run(store: Store) -> None:
        async with store.begin() as session:
            session.add(Release(workload="w", number=1, run=1, owner="ada@example.org", created=NOW))
        await story(World(store))

    with_store(run)


def test_who_is_concerned_is_told_once_in_order(with_store: Callable[[Any], None]) -> None:
    async def story(world: World) -> None:
        first, second = await world.open(), await world.open("edge-2")
        await world.later(1)
        await world.move(first, AlarmEvent.ACKNOWLEDGED)
        await world.move(first, AlarmEvent.RESOLVED)
        await world.later(1)
        await world.later(1)  # of one alarm, one notice a look
        await world.later(HOUR)
        assert world.duty.whats == [
            (first, "opened"), (second, "opened"), (first, "acknowledged"), (first, "resolved"),
        ]  # fmt: skip
        assert world.chief.told == world.other.told == []
        message = world.duty.told[0]
        assert (message.id, message.reason, message.alarm["owner"]) == ("main-notice-1", "it drifts", "ada@example.org")
        assert message.alarm["state"] == "open" and world.duty.told[3].alarm["state"] == "resolved"

    tell(with_store, story)


def test_who_is_away_is_told_when_back_with_longer_and_longer_pauses(with_store: Callable[[Any], None]) -> None:
    async def story(world: World) -> None:
        world.duty.away = True
        number = await world.open()
        for _ in range(30):
            await world.later(20)
        (delivery,) = await world.store.all(select(Delivery))
        assert (delivery.state, delivery.attempts, delivery.error) == ("waiting", 7, "away")
        world.duty.away = False
        await world.move(number, AlarmEvent.RESOLVED)
        await world.start().tick()  # another process takes over
        assert world.duty.told == []  # not yet due, and what came after does not overtake it
        await world.later(HOUR)
        await world.later(1)
        assert world.duty.whats == [(number, "opened"), (number, "resolved")]

    tell(with_store, story)


def test_what_cannot_be_told_for_days_is_given_up_and_said_so(with_store: Callable[[Any], None]) -> None:
    async def story(world: World) -> None:
        world.duty.away = True
        await world.open()
        for _ in range(60):
            await world.later(HOUR)
        (delivery,) = await world.store.all(select(Delivery).where(Delivery.route == "duty", Delivery.notice == 1))
        assert delivery.state == "given up"
        (event, *_) = await world.store.all(select(Event).where(Event.kind == "notice"))
        assert event.reason == "alarm 1 opened could not be told: away" and event.after == "given up"

    tell(with_store, story)


def test_a_notice_that_poisons_its_route_holds_up_its_own_alarm_only(with_store: Callable[[Any], None]) -> None:
    async def story(world: World) -> None:
        bad, good = await world.open(), await world.open("edge-2")
        tell_all = world.duty.tell

        def choosy(message: Message) -> None:
            if message.alarm["id"] == bad:
                raise LinkError("I choke on that")
            tell_all(message)

        world.duty.tell = choosy  # type: ignore[method-assign]
        for _ in range(3):
            await world.later(1)
        assert world.duty.whats == [(good, "opened")]

    tell(with_store, story)


def test_nobody_acknowledges_so_the_next_is_told_once(with_store: Callable[[Any], None]) -> None:
    async def story(world: World) -> None:
        number, seen = await world.open(), await world.open("edge-2")
        await world.move(seen, AlarmEvent.ACKNOWLEDGED)
        await world.later(4 * HOUR - 1)
        assert world.chief.told == []
        for _ in range(6):
            await world.later(4 * HOUR)
        assert world.chief.whats == [(number, "escalated")] and (number, "escalated") not in world.duty.whats
        assert "nobody acknowledged it for 8.0 hours: step 1 of 1" in world.chief.told[0].reason
        await world.move(number, AlarmEvent.ACKNOWLEDGED)
        await world.later(1)
        assert world.chief.whats[-1] == world.duty.whats[-1] == (number, "acknowledged")

    tell(with_store, story)


def test_who_forgets_is_reminded_of_what_is_not_resolved(with_store: Callable[[Any], None]) -> None:
    async def story(world: World) -> None:
        number, over = await world.open(), await world.open("edge-2")
        await world.move(over, AlarmEvent.RESOLVED)
        await world.later(1)
        await world.later(1)
        await world.later(flow.RENEWAL)
        assert world.duty.reminded == [[f"main-alarm-{number}"]] * 2
        assert world.chief.reminded == world.other.reminded == [[], []]

    tell(with_store, story)


def test_a_change_and_its_notice_are_one(with_store: Callable[[Any], None]) -> None:
    async def story(world: World) -> None:
        number = await world.open()
        with pytest.raises(ZeroDivisionError):
            async with world.store.begin() as session:
                alarm = await alarms.get(session, number)
                alarms.move(session, alarm, AlarmEvent.RESOLVED, "why", "operator", NOW)
                await session.flush()
                raise ZeroDivisionError
        assert (await world.store.get(Alarm, number)).state == "open"
        assert [notice.what for notice in await world.store.all(select(Notice))] == ["opened"]
        await world.move(number, AlarmEvent.RESOLVED)
        assert (await world.store.get(Alarm, number)).health == "ok"
        for event in AlarmEvent:
            with pytest.raises(StateError, match="cannot happen while 'resolved'"):
                await world.move(number, event)
        with pytest.raises(NotFoundError, match="no 9"):
            await world.move(9, AlarmEvent.RESOLVED)

    tell(with_store, story)


def test_an_alarm_changes_owner(with_store: Callable[[Any], None]) -> None:
    async def story(world: World) -> None:
        number = await world.open()
        async with world.store.begin() as session:
            alarm = await alarms.get(session, number)
            alarms.assign(session, alarm, "bob", "on holiday", "operator", NOW)
        (*_, event) = await world.store.all(select(Event).order_by(Event.id))
        assert event.reason == "ada@example.org gives it to bob: on holiday"
        assert (await world.store.get(Alarm, number)).owner == "bob"
        await world.later(1)
        await world.later(1)
        assert world.duty.told[-1].alarm["owner"] == "bob"

    tell(with_store, story)
