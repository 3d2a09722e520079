from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from sqlalchemy import select

from skerry_cloud.drift.flow import DriftFlow
from skerry_cloud.store import Alarm, Event, Store
from skerry_shared.release import Channel

NORMAL = Channel("brightness", (1.0, 2.0, 3.0), (250, 250, 250, 250, 0))
SHIFTED = Channel("brightness", (1.0, 2.0, 3.0), (10, 10, 10, 970, 0))


async def normal(device: str, workload: str, release: int) -> Sequence[Channel]:
    return (SHIFTED,) if device == "retrained" else (NORMAL,)


def windows(device: str, channel: Channel, first: int, count: int) -> pa.Table:
    random = np.random.default_rng(first)
    shares = np.array(channel.counts) / sum(channel.counts)
    return pa.Table.from_pylist([
        {"device": device, "workload": "w", "release": 1, "start": float(i), "end": i + 1.0, "channel": channel.name,
         "counts": random.multinomial(100, shares).tolist()}
        for i in range(first, first + count)
    ])  # fmt: skip


def test_drift_raises_one_alarm_and_a_resolved_one_may_come_again(with_store: Callable[[Any], None]) -> None:
    async def story(store: Store) -> None:
        flow = DriftFlow(store, 1000, normal)
        await flow.take(windows("edge-1", NORMAL, 0, 20))
        await flow.take(windows("retrained", SHIFTED, 0, 20))
        assert await store.all(select(Alarm)) == []
        await flow.take(windows("edge-1", SHIFTED, 20, 20))
        await flow.take(windows("edge-1", SHIFTED, 40, 20))
        (alarm,) = await store.all(select(Alarm))
        assert (alarm.device, alarm.state) == ("edge-1", "open") and 18 <= alarm.since <= 21
        assert alarm.detail["channels"][0]["channel"] == "brightness"
        (event,) = await store.all(select(Event).where(Event.kind == "alarm"))
        assert event.reason == alarm.summary
        async with store.begin() as session:
            (await session.get_one(Alarm, alarm.id)).state = "resolved"
        await flow.take(windows("edge-1", SHIFTED, 60, 20))
        assert [found.state for found in await store.all(select(Alarm).order_by(Alarm.id))] == ["resolved", "open"]

    with_store(story)


def test_a_restart_replays_the_past_without_raising_it_again(with_store: Callable[[Any], None]) -> None:
    async def story(store: Store) -> None:
        past = pa.concat_tables([windows("edge-1", NORMAL, 0, 10), windows("edge-1", SHIFTED, 10, 10)])
        await DriftFlow(store, 1000, normal).take(past)
        again = DriftFlow(store, 1000, normal)
        await again.replay(past)
        await again.take(windows("edge-1", SHIFTED, 20, 10))
        assert len(await store.all(select(Alarm))) == 1

    with_store(story)


def test_what_a_crash_kept_from_being_raised_is_raised_at_the_restart(with_store: Callable[[Any], None]) -> None:
    async def story(store: Store) -> None:
        past = pa.concat_tables([windows("edge-1", NORMAL, 0, 10), windows("edge-1", SHIFTED, 10, 10)])
        await DriftFlow(store, 1000, normal).replay(past)
        assert len(await store.all(select(Alarm))) == 1

    with_store(story)
