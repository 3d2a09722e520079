import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sqlalchemy import select

from skerry_cloud.drift import checkpoint, flow
from skerry_cloud.drift.finding import DAY, Place
from skerry_cloud.drift.flow import DriftFlow
from skerry_cloud.store import Alarm, Checkpoint, Device, Event, Store
from skerry_shared.errors import InputError, NotFoundError, StateError
from skerry_shared.release import Channel

NORMAL = Channel("brightness", (1.0, 2.0, 3.0), (250, 250, 250, 250, 0))
DARKER = Channel("brightness", (1.0, 2.0, 3.0), (350, 250, 250, 150, 0))
SHIFTED = Channel("brightness", (1.0, 2.0, 3.0), (100, 100, 100, 700, 0))
GONE = Channel("brightness", (1.0, 2.0, 3.0), (150, 100, 100, 50, 400))
DAYS = 1000 / DAY  # windows last a second


async def normal(device: str, workload: str, release: int) -> Sequence[Channel]:
    return (SHIFTED,) if device == "retrained" else (NORMAL,)


def windows(device: str, channel: Channel, first: int, count: int) -> pa.Table:
    random = np.random.default_rng(first)
    shares = np.array(channel.counts) / sum(channel.counts)
    return pa.Table.from_pylist([
        {"device": device, "workload": "w", "release": 1, "start": float(i), "end": i + 1.0, "channel": channel.name,
         "counts": random.multinomial(100, shares).tolist(), "session": "5e", "counter": i + 1, "received": 1e9 + i}
        for i in range(first, first + count)
    ])  # fmt: skip


class Past:
    """A lake of some tables."""

    def __init__(self, *tables: pa.Table) -> None:
        self.rows, self.scanned = pa.concat_tables(tables), 0

    async def scan(self, filter: pc.Expression | None) -> pa.Table:
        found = self.rows if filter is None else self.rows.filter(filter)
        self.scanned = found.num_rows
        return found


def started(store: Store) -> DriftFlow:
    return DriftFlow(store, DAYS, 0.01, normal)


async def resolve(store: Store, number: int) -> None:
    async with store.begin() as session:
        (await session.get_one(Alarm, number)).state = "resolved"


def test_drift_raises_one_alarm_and_a_resolved_one_may_come_again(with_store: Callable[[Any], None]) -> None:
    async def story(store: Store) -> None:
        drift = started(store)
        await drift.take(windows("edge-1", NORMAL, 0, 20))
        await drift.take(windows("retrained", SHIFTED, 0, 20))
        assert await store.all(select(Alarm)) == []
        await drift.take(windows("edge-1", SHIFTED, 20, 20))
        await drift.take(windows("edge-1", SHIFTED, 40, 20))
        (alarm,) = await store.all(select(Alarm))
        assert (alarm.level, alarm.name, alarm.devices, alarm.state) == ("device", "edge-1", ["edge-1"], "open")
        assert 18 <= alarm.since <= 21 and alarm.detail["channels"][0]["channel"] == "brightness"
        (event,) = await store.all(select(Event).where(Event.kind == "alarm"))
        assert event.reason == alarm.summary and event.name == f"{alarm.id} edge-1"
        await resolve(store, alarm.id)
        await drift.take(windows("edge-1", SHIFTED, 60, 20))
        assert [found.state for found in await store.all(select(Alarm).order_by(Alarm.id))] == ["resolved", "open"]

    with_store(story)


def test_what_gets_worse_is_noted_on_the_open_alarm(with_store: Callable[[Any], None]) -> None:
    async def story(store: Store) -> None:
        drift = started(store)
        await drift.take(windows("edge-1", DARKER, 0, 20))
        (before,) = await store.all(select(Alarm))
        await drift.take(windows("edge-1", GONE, 20, 20))
        (alarm,) = await store.all(select(Alarm))
        assert (alarm.kind, alarm.state, alarm.summary) == ("drift", "open", before.summary)
        (channel,) = alarm.detail["channels"]
        assert channel["fault"].endswith("missing")
        events = await store.all(select(Event).where(Event.kind == "alarm").order_by(Event.id))
        assert [event.after for event in events] == ["open", "open"] and " further since " in events[1].reason

    with_store(story)


def test_another_release_at_the_same_place_opens_no_second_alarm(with_store: Callable[[Any], None]) -> None:
    async def story(store: Store) -> None:
        drift, second = started(store), windows("edge-1", SHIFTED, 20, 20).to_pylist()
        await drift.take(windows("edge-1", SHIFTED, 0, 20))
        await drift.take(pa.Table.from_pylist([row | {"release": 2} for row in second]))
        (alarm,) = await store.all(select(Alarm))
        assert (alarm.release, alarm.health, alarm.state) == (2, "drift", "open")

    with_store(story)


def test_after_a_reviewed_change_what_devices_send_is_normal_until_that_is_taken_back(
    with_store: Callable[[Any], None],
) -> None:
    async def story(store: Store) -> None:
        async with store.begin() as session:
            session.add_all(Device(name=f"edge-{i}", profile="p", state="enrolled") for i in (1, 2))
        changed, quiet = windows("edge-1", SHIFTED, 20, 20), windows("edge-2", NORMAL, 0, 40)
        past = Past(windows("edge-1", NORMAL, 0, 20), changed, quiet)
        drift, here = started(store), Place("device", "edge-1", "w", 1)
        await drift.start(past.scan)
        with pytest.raises(InputError, match="brightness: 400 values since then, 500 are needed"):
            await drift.rebase(here, 36.0, "new lamp", "operator", 40.0)
        with pytest.raises(NotFoundError, match="windows: none of edge-1"):
            await drift.rebase(here, 99.0, "new lamp", "operator", 40.0)
        with pytest.raises(NotFoundError, match="group: no hall"):
            await drift.rebase(here._replace(level="group", name="hall"), 20.0, "new lamp", "operator", 40.0)
        baseline = await drift.rebase(here, 20.0, "new lamp", "operator", 40.0)
        assert sum(baseline.channels["channels"][0]["counts"]) == 2000
        (alarm,) = await store.all(select(Alarm))
        assert (alarm.state, alarm.health) == ("resolved", "ok")
        (*_, resolved) = await store.all(select(Event).where(Event.kind == "alarm").order_by(Event.id))
        assert resolved.reason == f"baseline {baseline.id}: new lamp"
        await drift.take(windows("edge-1", SHIFTED, 40, 20))
        again = started(store)  # it outlives the process
        await again.start(past.scan)
        await again.take(windows("edge-1", SHIFTED, 60, 20))
        assert len(await store.all(select(Alarm))) == 1
        await again.take_back(baseline.id, "the old lamp is back", "operator", 80.0)
        with pytest.raises(StateError, match="taken back already"):
            await again.take_back(baseline.id, "again", "operator", 80.0)
        await again.take(windows("edge-1", SHIFTED, 80, 20))
        assert [row.state for row in await store.all(select(Alarm).order_by(Alarm.id))] == ["resolved", "open"]
        told = await store.all(select(Event).where(Event.kind == "baseline").order_by(Event.id))
        assert [event.after for event in told] == ["in force", "taken back"]

    with_store(story)


def test_devices_of_a_group_that_drifts_are_one_alarm(with_store: Callable[[Any], None]) -> None:
    async def story(store: Store) -> None:
        async with store.begin() as session:
            for device in ("a", "b", "c", "d"):
                group = "hall" if device in "ab" else ""
                session.add(Device(name=device, profile="p", group=group, state="enrolled"))
        drift = started(store)
        for channels in (dict.fromkeys("abcd", NORMAL), {"a": SHIFTED, "b": SHIFTED, "c": NORMAL, "d": NORMAL}):
            first = 0 if channels["a"] is NORMAL else 10
            await drift.take(pa.concat_tables([windows(*what, first, 10) for what in channels.items()]))
        (alarm,) = await store.all(select(Alarm))
        assert (alarm.level, alarm.name, alarm.devices) == ("group", "hall", ["a", "b"])
        assert alarm.summary.startswith("group hall: w release 1 drifts since ")

    with_store(story)


def test_windows_that_come_again_change_nothing(with_store: Callable[[Any], None]) -> None:
    async def story(store: Store) -> None:
        drift, weak = started(store), windows("edge-1", DARKER, 0, 1)
        for _ in range(20):
            await drift.take(weak)
        assert await store.all(select(Alarm)) == []
        await drift.take(windows("edge-1", DARKER, 1, 20))
        assert len(await store.all(select(Alarm))) == 1

    with_store(story)


@pytest.mark.parametrize("saved", [True, False])
def test_a_restart_goes_on_from_the_checkpoint(
    with_store: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """Whether that was written just before the end or earlier: nothing is folded twice, or missed."""
    monkeypatch.setattr(flow, "LATE", 20.0)
    place = Place("device", "edge-1", "w", 1)

    async def story(store: Store) -> None:
        early, late = windows("edge-1", NORMAL, 0, 100), windows("edge-1", DARKER, 100, 1)
        first, past = started(store), Past(early, late)
        await first.take(early)
        monkeypatch.setattr(flow, "EVERY", 1.0 if saved else 60.0)
        await first.take(late)
        again = started(store)
        await again.start(past.scan)
        assert past.scanned == (21 if saved else 22)
        assert again._watch.evidence(place) == first._watch.evidence(place) > -math.inf

    with_store(story)


def test_what_a_crash_kept_from_being_raised_is_raised_at_the_restart_once(with_store: Callable[[Any], None]) -> None:
    async def story(store: Store) -> None:
        past = Past(windows("edge-1", NORMAL, 0, 10), windows("edge-1", SHIFTED, 10, 10))
        for _ in range(2):
            await started(store).start(past.scan)
            assert len(await store.all(select(Alarm))) == 1

    with_store(story)


def test_an_alarm_that_was_resolved_while_the_cloud_was_down_may_come_again(with_store: Callable[[Any], None]) -> None:
    async def story(store: Store) -> None:
        past = Past(windows("edge-1", SHIFTED, 0, 10))
        await started(store).start(past.scan)
        await resolve(store, 1)
        drift = started(store)
        await drift.start(past.scan)
        await drift.take(windows("edge-1", SHIFTED, 10, 10))
        assert len(await store.all(select(Alarm))) == 2

    with_store(story)


def test_a_state_of_other_alternatives_is_made_anew_from_the_lake(
    with_store: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(data: bytes, tolerance: float) -> None:
        raise InputError("checkpoint: brightness has 3 alternatives")

    async def story(store: Store) -> None:
        past = Past(windows("edge-1", NORMAL, 0, 100))
        await started(store).start(past.scan)
        assert await store.get(Checkpoint, flow.NAME)
        monkeypatch.setattr(checkpoint, "load", refuse)
        await started(store).start(past.scan)
        assert past.scanned == 100

    with_store(story)
