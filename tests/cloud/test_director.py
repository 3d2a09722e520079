import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from skerry_cloud.fleet.director import Director, Order, channels
from skerry_cloud.keys import Keys
from skerry_cloud.store import Assignment, Bundle, Dataset, Device, Event, Installed, Release, Rollout, Run, Store
from skerry_shared import release, signing, wire
from skerry_shared.errors import NotFoundError, StateError, UsageError
from skerry_shared.release import Channel, Lineage, Manifest, Measured, Signed, Target
from skerry_shared.states import Update

NOW = 1_800_000_000.0
TARGET = Target("generic-x86-64", "x86_64", "onnxruntime", "int8")
origins = itertools.count()


def manifest(number: int) -> Manifest:
    measured, lineage = Measured(1, 1, 1, 0), Lineage(1, "", 1, "")
    baseline = (Channel("x", (0.5,), (number, 1, 0)),)
    return Manifest("w", number, "o", ("a", "b"), (), (), TARGET, measured, lineage, baseline, 0.1, "m")


async def publish(store: Store, number: int, workload: str = "w") -> None:
    async with store.begin() as session:
        session.add(Release(workload=workload, number=number, run=1, owner="o", created=NOW))
        await session.flush()
        path, document = f"{workload}/{number}/g.bundle", wire.to_json(manifest(number))
        session.add(Bundle(workload=workload, release=number, profile="generic-x86-64", path=path,
                           sha256=f"{number}", length=9, manifest=document))  # fmt: skip


class Fleet:
    """A director with three devices, and what it sent them."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self.store, self.sent = store, dict[str, release.Assignment]()
        key = keys.signer("director")
        self.director = Director(store, key, "test", 30, self._send)
        self._public = key.public_key()

    async def build(self) -> "Fleet":
        async with self.store.begin() as session:
            for number in range(3):
                session.add(Device(name=f"edge-{number}", profile="generic-x86-64", state="enrolled"))
            for workload in ("w", "v"):
                session.add(Dataset(workload=workload, number=1, parent=0, created=NOW, sha256="", rows=1, sources={}))
                session.add(Run(workload=workload, dataset=1, parent=0, code="", state="compressed", created=NOW))
        for number in (1, 2):
            await publish(self.store, number)
            await publish(self.store, number, "v")
        return self

    async def _send(self, device: str, data: bytes) -> None:
        self.sent[device] = signing.verify(release.Assignment, wire.decode(Signed, data), self._public)

    async def say(self, device: str, state: Update, reason: str = "", origin: str = "") -> None:
        told = self.sent[device]
        row = {"time": NOW, "subject": "update", "from": "", "to": state.value, "reason": reason,
               "workload": told.workload, "release": told.release, "rollout": told.rollout}  # fmt: skip
        await self.director.report(device, row, origin or str(next(origins)))

    async def running(self, workload: str) -> dict[str, int]:
        rows = await self.store.all(select(Installed).where(Installed.workload == workload))
        return {row.device: row.release for row in rows}

    async def desired(self, device: str) -> list[tuple[str, int]]:
        signed = [wire.decode(Signed, one) for one in await self.director.desired(device)]
        told = [wire.decode(release.Assignment, one.document) for one in signed]
        return [(one.workload, one.release) for one in told]

    async def roll_out(self, number: int, workload: str = "w", *devices: str) -> Rollout:
        """To the end: every device is healthy as soon as it is told."""
        started = await self.director.start(Order(workload, number, 1, 60, devices), "test", NOW)
        for wave in started.waves:
            for device in wave:
                await self.say(device, Update.HEALTHY)
            await self.director.tick(NOW)
        return await self.store.get(Rollout, started.id)


def tell(with_store: Callable[[Any], None], keys: Keys, story: Any) -> None:
    async def run(store: Store) -> None:
        await story(await Fleet(store, keys).build())

    with_store(run)


def test_a_rollout_goes_canary_first_and_ends_done(with_store: Callable[[Any], None], fleet_keys: Keys) -> None:
    async def story(fleet: Fleet) -> None:
        rollout = await fleet.director.start(Order("w", 1, 1, 60), "test", NOW)
        canary = rollout.waves[0][0]
        assert list(fleet.sent) == [canary]
        assert fleet.sent[canary].target == TARGET and fleet.sent[canary].counter == 1
        await fleet.say(canary, Update.PROVING)
        await fleet.director.tick(NOW)
        assert list(fleet.sent) == [canary]  # installed is not healthy
        await fleet.say(canary, Update.HEALTHY)
        await fleet.director.tick(NOW)
        assert sorted(fleet.sent) == ["edge-0", "edge-1", "edge-2"]
        for device in rollout.waves[1]:
            await fleet.say(device, Update.HEALTHY)
        await fleet.director.tick(NOW)
        assert (await fleet.store.get(Rollout, rollout.id)).state == "done"
        assert set((await fleet.running("w")).values()) == {1}

    tell(with_store, fleet_keys, story)


def test_what_a_device_counts_is_told_by_the_bundle_for_its_profile(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(fleet: Fleet) -> None:
        for number in (1, 2):
            assert await channels(fleet.store, "edge-0", "w", number) == manifest(number).baseline
        for unknown in (("edge-0", "w", 3), ("edge-0", "gossip", 1), ("edge-9", "w", 1)):
            with pytest.raises(NotFoundError):
                await channels(fleet.store, *unknown)

    tell(with_store, fleet_keys, story)


def test_a_failing_second_wave_gives_the_canary_back_what_it_ran(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.roll_out(1)
        rollout = await fleet.director.start(Order("w", 2, 1, 60), "test", NOW)
        canary, (second, third) = rollout.waves[0][0], rollout.waves[1]
        await fleet.say(canary, Update.HEALTHY)
        await fleet.director.tick(NOW)
        await fleet.say(second, Update.UNDONE, "disagrees")
        await fleet.director.tick(NOW)
        halted = await fleet.store.get(Rollout, rollout.id)
        assert (halted.state, halted.reason) == ("halted", f"{second} undone: disagrees")
        assert fleet.sent[canary].release == fleet.sent[third].release == 1  # given back
        assert fleet.sent[canary].counter == 3
        assert fleet.sent[second].release == 2  # it undid it itself: nothing more to tell it
        assert (await fleet.running("w"))[second] == 1

    tell(with_store, fleet_keys, story)


def test_a_shadow_is_through_when_it_has_reported_and_changes_what_no_device_runs(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.roll_out(1)
        rollout = await fleet.director.start(Order("w", 2, 1, 60, mode="shadow"), "test", NOW)
        for wave in rollout.waves:
            assert {fleet.sent[device].mode for device in wave} == {"shadow"}
            for device in wave:
                await fleet.say(device, Update.SHADOWING)
                await fleet.director.tick(NOW)
                assert (await fleet.store.get(Rollout, rollout.id)).state == "running"
                await fleet.say(device, Update.SHADOWED, "agrees on 190 of 200")
            await fleet.director.tick(NOW)
        assert (await fleet.store.get(Rollout, rollout.id)).state == "done"
        assert set((await fleet.running("w")).values()) == {1}
        assert (await fleet.director.start(Order("w", 2, 1, 60), "test", NOW)).mode == "serve"

    tell(with_store, fleet_keys, story)


def test_a_shadow_that_is_refused_halts_and_its_devices_are_told_to_serve_what_they_serve(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.roll_out(1)
        rollout = await fleet.director.start(Order("w", 2, 2, 60, mode="shadow"), "test", NOW)
        shadowed, refused = rollout.waves[0]
        await fleet.say(shadowed, Update.SHADOWED)
        await fleet.say(refused, Update.REFUSED, "too few live answers")
        await fleet.director.tick(NOW)
        assert (await fleet.store.get(Rollout, rollout.id)).state == "halted"
        assert (fleet.sent[shadowed].release, fleet.sent[shadowed].mode) == (1, "serve")

    tell(with_store, fleet_keys, story)


def test_a_device_that_goes_back_after_it_was_healthy_is_seen_and_does_not_revive_the_rollout(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.roll_out(1)
        rollout = await fleet.roll_out(2)
        await fleet.say("edge-1", Update.UNDONE, "too slow")
        await fleet.director.tick(NOW)
        assert await fleet.running("w") == {"edge-0": 2, "edge-1": 1, "edge-2": 2}
        (told,) = await fleet.store.all(select(Event).where(Event.after == "undone"))
        assert (told.name, told.reason) == ("edge-1 w/2", "too slow")
        assert (await fleet.store.get(Rollout, rollout.id)).state == "done"

    tell(with_store, fleet_keys, story)


def test_a_silent_canary_halts_at_the_deadline(with_store: Callable[[Any], None], fleet_keys: Keys) -> None:
    async def story(fleet: Fleet) -> None:
        rollout = await fleet.director.start(Order("w", 1, 1, 60), "test", NOW)
        await fleet.director.tick(NOW + 60)
        assert (await fleet.store.get(Rollout, rollout.id)).state == "running"
        await fleet.director.tick(NOW + 61)
        assert "not healthy within 60 s" in (await fleet.store.get(Rollout, rollout.id)).reason
        with pytest.raises(StateError, match="cannot happen while 'halted'"):
            await fleet.director.stop(rollout.id, "operator", "late", NOW)

    tell(with_store, fleet_keys, story)


def test_a_report_counts_once_and_a_refused_start_changes_nothing(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(fleet: Fleet) -> None:
        rollout = await fleet.director.start(Order("w", 1, 1, 60), "test", NOW)
        with pytest.raises(StateError, match="still running"):
            await fleet.director.start(Order("w", 2, 1, 60), "test", NOW)
        with pytest.raises(UsageError, match="edge-9 is not enrolled"):
            await fleet.director.start(Order("w", 2, 1, 60, ("edge-9",)), "test", NOW)
        canary = rollout.waves[0][0]
        for _ in range(2):
            await fleet.say(canary, Update.FETCHING, origin="edge/1/1/0")
        events = await fleet.store.all(select(Event).where(Event.kind == "update"))
        assert len(events) == 1
        assert len(await fleet.store.all(select(Assignment))) == 1

    tell(with_store, fleet_keys, story)


def test_a_device_that_was_away_gets_its_newest_assignment(with_store: Callable[[Any], None], fleet_keys: Keys) -> None:
    async def story(fleet: Fleet) -> None:
        assert await fleet.director.desired("edge-0") == []
        await fleet.roll_out(1)
        await fleet.roll_out(1, "v")
        await fleet.roll_out(2)
        assert await fleet.desired("edge-0") == [("v", 1), ("w", 2)]

    tell(with_store, fleet_keys, story)


def test_two_starts_at_once_make_one_rollout(with_store: Callable[[Any], None], fleet_keys: Keys) -> None:
    async def story(fleet: Fleet) -> None:
        order = Order("w", 1, 1, 60)
        asked = [fleet.director.start(order, "test", NOW) for _ in range(4)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(answer, Rollout) for answer in answers) == 1
        assert len(await fleet.store.all(select(Rollout))) == 1

    tell(with_store, fleet_keys, story)


def test_looks_and_a_halt_at_once_end_halted_once(with_store: Callable[[Any], None], fleet_keys: Keys) -> None:
    async def story(fleet: Fleet) -> None:
        rollout = await fleet.director.start(Order("w", 1, 1, 60), "test", NOW)
        await fleet.say(rollout.waves[0][0], Update.HEALTHY)
        halt = fleet.director.stop(rollout.id, "operator", "enough", NOW)
        await asyncio.gather(*(fleet.director.tick(NOW) for _ in range(3)), halt, return_exceptions=True)
        await fleet.director.tick(NOW)
        events = await fleet.store.all(select(Event).where(Event.kind == "rollout").order_by(Event.id))
        assert len(events) == len({event.after for event in events})  # no wave was assigned twice

    tell(with_store, fleet_keys, story)


def test_a_device_that_became_something_else_halts_the_rollout(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(fleet: Fleet) -> None:
        rollout = await fleet.director.start(Order("w", 1, 1, 60), "test", NOW)
        async with fleet.store.begin() as session:
            (await session.get_one(Device, rollout.waves[1][0])).profile = "industrial-pc"
        await fleet.say(rollout.waves[0][0], Update.HEALTHY)
        await fleet.director.tick(NOW)
        halted = await fleet.store.get(Rollout, rollout.id)
        assert halted.state == "halted" and "no bundle" in halted.reason

    tell(with_store, fleet_keys, story)


def lake_row(fleet: Fleet, device: str, state: Update, counter: int) -> dict[str, Any]:
    told = fleet.sent[device]
    return {"time": NOW + counter, "subject": "update", "from": "", "to": state.value, "reason": "", "workload": "w",
            "release": told.release, "rollout": told.rollout, "device": device, "session": "s", "counter": counter,
            "row": 0}  # fmt: skip


def test_what_a_crash_kept_from_being_heard_is_heard_at_the_replay(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(fleet: Fleet) -> None:
        canary = (await fleet.director.start(Order("w", 1, 1, 60), "test", NOW)).waves[0][0]
        rows = [lake_row(fleet, canary, state, i) for i, state in enumerate((Update.FETCHING, Update.HEALTHY))]
        await fleet.director.replay(rows[::-1])
        await fleet.director.replay(rows)
        told = await fleet.store.all(select(Assignment))
        assert [assignment.state for assignment in told] == ["healthy"]
        assert len(await fleet.store.all(select(Event).where(Event.kind == "update"))) == 2

    tell(with_store, fleet_keys, story)


def test_a_device_cannot_speak_of_what_is_not_its_own(with_store: Callable[[Any], None], fleet_keys: Keys) -> None:
    async def story(fleet: Fleet) -> None:
        canary = (await fleet.director.start(Order("w", 1, 1, 60), "test", NOW)).waves[0][0]
        before = len(await fleet.store.all(select(Event)))
        forged = lake_row(fleet, canary, Update.HEALTHY, 1) | {"subject": "rollout", "to": "done"}
        await fleet.director.report(canary, forged, "forged")
        assert len(await fleet.store.all(select(Event))) == before

    tell(with_store, fleet_keys, story)


def test_rollouts_of_two_workloads_do_not_disturb_each_other(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.roll_out(1)
        one = await fleet.director.start(Order("w", 2, 3, 60), "test", NOW)
        told = dict(fleet.sent)
        other = await fleet.director.start(Order("v", 1, 3, 60), "test", NOW)
        for device in other.waves[0]:
            await fleet.say(device, Update.HEALTHY)
        fleet.sent.update(told)
        await fleet.say("edge-0", Update.UNDONE, "disagrees")
        await fleet.director.tick(NOW)
        assert (await fleet.store.get(Rollout, one.id)).state == "halted"
        assert (await fleet.store.get(Rollout, other.id)).state == "done"
        assert set((await fleet.running("v")).values()) == {1}
        assert [workload for workload, _ in await fleet.desired("edge-1")] == ["v", "w"]
        assert fleet.sent["edge-1"].counter == 4  # it rises over both

    tell(with_store, fleet_keys, story)


def test_a_workload_is_taken_off_a_device_and_stays_off_until_the_device_is_named(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.roll_out(1)
        await fleet.roll_out(1, "v")
        await fleet.director.drop("edge-1", "w", "operator", "not needed", NOW)
        told = fleet.sent["edge-1"]
        assert (told.mode, told.workload, told.release, told.counter) == ("drop", "w", 0, 3)
        assert told.expires > NOW + 1000 * 86400  # it may be away for long
        await fleet.say("edge-1", Update.DROPPED)
        assert await fleet.running("w") == {"edge-0": 1, "edge-2": 1}
        assert "edge-1" in await fleet.running("v")
        assert await fleet.director.having("w") == ("edge-0", "edge-2")
        with pytest.raises(StateError, match="already; it is dropped"):
            await fleet.director.drop("edge-1", "w", "operator", "", NOW)
        (event,) = await fleet.store.all(select(Event).where(Event.kind == "device"))
        assert (event.name, event.before, event.after) == ("edge-1", "w/1", "to drop w")
        await fleet.roll_out(2)
        assert await fleet.running("w") == {"edge-0": 2, "edge-2": 2}
        await fleet.director.start(Order("w", 2, 1, 60, ("edge-1",)), "test", NOW)
        await fleet.say("edge-1", Update.PROVING)
        assert (await fleet.running("w"))["edge-1"] == 2
        await fleet.say("edge-1", Update.UNDONE, "wrong")
        assert "edge-1" not in await fleet.running("w")  # what ran before the drop is not there to go back to

    tell(with_store, fleet_keys, story)


def test_what_cannot_be_dropped(with_store: Callable[[Any], None], fleet_keys: Keys) -> None:
    async def story(fleet: Fleet) -> None:
        with pytest.raises(NotFoundError, match="device edge-0: has no w"):
            await fleet.director.drop("edge-0", "w", "operator", "", NOW)
        rollout = await fleet.director.start(Order("w", 1, 1, 60), "test", NOW)
        with pytest.raises(StateError, match=f"rollout {rollout.id} of w is still running; halt it first"):
            await fleet.director.drop(rollout.waves[0][0], "w", "operator", "", NOW)

    tell(with_store, fleet_keys, story)
