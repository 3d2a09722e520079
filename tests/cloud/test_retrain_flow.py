import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from skerry_cloud.retrain.flow import Asked, Retrainer
from skerry_cloud.retrain.harm import Accuracy
from skerry_cloud.retrain.policy import Policies, Policy
from skerry_cloud.specs import Wanted
from skerry_cloud.store import Alarm, Bundle, Dataset, Device, Event, Installed, Release, Retraining, Run, Store
from skerry_shared.errors import LinkError

NOW = 1_800_000_000.0
POLICY = Policy(min_labels=30, cooldown_seconds=600, epochs=7, max_loss=2.0)


@dataclass(frozen=True)
class Judged:
    passed: bool
    reason: str = "figures"


@dataclass(frozen=True)
class Samples:
    inputs: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    sources: Sequence[str]
    releases: np.ndarray[Any, Any]
    right: np.ndarray[Any, Any]
    probabilities: np.ndarray[Any, Any]
    audits: np.ndarray[Any, Any]
    chosen: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Unlabelled:
    inputs: np.ndarray[Any, Any]
    sources: Sequence[str]


class Steps:
    """Records what is asked of it, and what the sample file held."""

    def __init__(self, passed: bool = True, broken: Exception | None = None) -> None:
        self.calls: list[Any] = []
        self._passed, self.broken = passed, broken
        self.store: Store

    async def ingest(
        self, workload: str, actor: str, report: Any, samples: Path | None = None, parent: int = 0, sure: float = 1.0
    ) -> Dataset:
        assert samples
        with np.load(samples) as file:
            assert file["chosen"].all()
            self.calls.append(("ingest", parent, file["labels"].tolist(), file["sources"].tolist()))
        dataset = Dataset(workload=workload, number=2, parent=parent, created=NOW, sha256="", rows=1, sources={})
        async with self.store.begin() as session:
            await session.merge(dataset)
        return dataset

    async def enqueue(self, workload: str, dataset: int, parent: int, epochs: int) -> Run:
        self.calls.append(("enqueue", dataset, parent, epochs))
        run = Run(workload=workload, dataset=dataset, parent=parent, code="", state="trained", created=NOW)
        async with self.store.begin() as session:
            session.add(run)
        return run

    async def fit(self, number: int, actor: str, report: Any) -> Run:
        self.calls.append(("fit", number, actor))
        if self.broken:
            raise self.broken
        return await self.store.get(Run, number)

    async def compress(self, number: int, wanted: Wanted, actor: str, report: Any) -> None:
        self.calls.append(("compress", number, wanted))

    def recipes(self, number: int) -> tuple[str, ...]:
        return (f"recipe of run {number}",)

    async def compare(self, champion: int, candidate: int, max_loss: float | None, report: Any) -> Judged:
        self.calls.append(("compare", champion, candidate, max_loss))
        return Judged(self._passed)

    async def publish(self, number: int, reason: str, actor: str) -> Release:
        self.calls.append(("publish", number))
        release = Release(workload="w", number=2, run=number, owner="o", created=NOW, reason=reason)
        async with self.store.begin() as session:
            await session.merge(release)
        return release


class World:
    """A store with a champion and an open alarm, and a retrainer on fakes."""

    def __init__(self, store: Store, folder: Path, steps: Steps, labels: int = 30) -> None:
        self.store, self.steps, self.labels = store, steps, labels
        self.started: list[tuple[str, int]] = []
        self.since = {"edge-1": NOW}
        steps.store, self._folder, self.rolling = store, folder, True
        self.retrainer = self.start()

    def start(self, policy: Policy = POLICY, **own: Policy) -> Retrainer:
        """As a server that starts does."""
        asked = Asked(self._labelled, self._unlabelled, self._estimate, self._start)
        return Retrainer(self.store, self.steps, asked, Policies(policy, own), self._folder, lambda: NOW)

    async def build(self, kind: str) -> "World":
        async with self.store.begin() as session:
            session.add(Dataset(workload="w", number=1, parent=0, created=NOW, sha256="", rows=1, sources={}))
            await session.flush()
            session.add(Run(workload="w", dataset=1, parent=0, code="", state="compressed", created=NOW,
                            accuracy=0.9))  # fmt: skip
            session.add(Release(workload="w", number=1, run=1, owner="o", created=NOW))
            await session.flush()
            session.add(Bundle(workload="w", release=1, profile="p", path="", sha256="", length=1, manifest=""))
            session.add(Device(name="edge-1", profile="p", state="enrolled"))
            session.add(Installed(device="edge-1", workload="w", release=1))
            session.add(Alarm(level="device", name="edge-1", devices=["edge-1"], workload="w", release=1, kind=kind,
                              health=kind, state="open", opened=NOW, since=NOW - 60, raised=NOW,
                              summary="", detail={}))  # fmt: skip
        return self

    async def healths(self) -> list[str]:
        events = await self.store.all(select(Event).where(Event.kind == "health").order_by(Event.id))
        return [event.after for event in events]

    async def notes(self) -> list[tuple[str, str]]:
        events = await self.store.all(select(Event).where(Event.kind == "retrain").order_by(Event.id))
        return [(event.before, event.after) for event in events]

    async def _labelled(self, workload: str, since: Mapping[str, float]) -> Samples:
        assert (workload, since) == ("w", self.since)
        size, wrong, ones = self.labels, np.zeros(self.labels, bool), np.ones(self.labels)
        about = (["edge-1"] * size, ones.astype(int), wrong, ones, ones, ~wrong)
        return Samples(np.zeros((size, 2)), np.arange(size), *about)

    async def _unlabelled(self, workload: str, since: Mapping[str, float], count: int) -> Unlabelled:
        assert (workload, since) == ("w", self.since)
        return Unlabelled(np.ones((count, 2)), ["edge-2"] * count)

    async def _estimate(self, workload: str, release: int, since: Mapping[str, float]) -> Accuracy:
        assert (workload, release, since) == ("w", 1, self.since)
        return Accuracy(0.5, 0.45, 0.55, 100)

    async def _start(self, workload: str, release: int) -> None:
        if not self.rolling:
            raise asyncio.CancelledError
        self.started.append((workload, release))


def tell(with_store: Callable[[Any], None], folder: Path, steps: Steps, story: Any, labels: int = 30,
         kind: str = "drift") -> None:  # fmt: skip
    async def run(store: Store) -> None:
        await story(await World(store, folder, steps, labels).build(kind))

    with_store(run)


def test_from_alarm_to_rollout_in_order(with_store: Callable[[Any], None], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.retrainer.tick()
        assert world.steps.calls == [
            ("ingest", 1, list(range(30)), ["device:edge-1"] * 30),
            ("enqueue", 2, 1, 7),
            ("fit", 2, "policy"),
            ("compress", 2, Wanted(("p",), recipes=("recipe of run 1",), device_minutes=0)),
            ("compare", 1, 2, 2.0),
            ("publish", 2),
        ]
        assert world.started == [("w", 2)]
        assert await world.notes() == [("", "retraining"), ("retraining", "release 2")]
        assert await world.healths() == ["harm", "retrain", "canary"]

    tell(with_store, tmp_path, Steps(), story)
    assert list(tmp_path.glob("*.npz")) == []


def test_samples_without_a_label_go_to_the_teacher(with_store: Callable[[Any], None], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.start(replace(POLICY, pseudo_labels=5)).tick()
        _, _, labels, sources = world.steps.calls[0]
        assert labels == [*range(30), *[-1] * 5] and sources == ["device:edge-1"] * 30 + ["teacher:edge-2"] * 5

    tell(with_store, tmp_path, Steps(), story)


STEPS = ("ingest", "enqueue", "fit", "compress", "compare", "publish", "start")


@pytest.mark.parametrize("cut", STEPS)
def test_whatever_cuts_a_retraining_short_it_goes_on_from_there(
    with_store: Callable[[Any], None], tmp_path: Path, cut: str
) -> None:
    """As when the process is killed within this step: what was done is not done again, the rest is."""

    async def story(world: World) -> None:
        if cut == "start":
            world.rolling = False
        else:
            step = getattr(world.steps, cut)

            async def killed(*_: Any, **__: Any) -> None:
                setattr(world.steps, cut, step)
                raise asyncio.CancelledError

            setattr(world.steps, cut, killed)
        with pytest.raises(asyncio.CancelledError):
            await world.retrainer.tick()
        assert (await world.healths())[-1] == "retrain" and world.started == []
        world.rolling = True
        await world.start().tick()
        assert world.started == [("w", 2)] and await world.healths() == ["harm", "retrain", "canary"]
        once = [call[0] for call in world.steps.calls if call[0] not in ("fit", "compress", "compare")]
        assert once == ["ingest", "enqueue", "publish"]
        (row,) = await world.store.all(select(Retraining))
        assert (row.state, row.dataset, row.run, row.published) == ("done", 2, 2, 2)

    tell(with_store, tmp_path, Steps(), story)


def test_an_alarm_that_is_resolved_meanwhile_stays_so(with_store: Callable[[Any], None], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        compare = world.steps.compare

        async def resolve(*asked: Any) -> Judged:
            async with world.store.begin() as session:
                alarm = await session.get_one(Alarm, 1)
                alarm.state, alarm.health = "resolved", "ok"
            return await compare(*asked)

        world.steps.compare = resolve  # type: ignore[method-assign, assignment]
        await world.retrainer.tick()
        assert (await world.store.get(Alarm, 1)).health == "ok" and world.started == [("w", 2)]

    tell(with_store, tmp_path, Steps(), story)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (replace(POLICY, on=("estimate",), min_accuracy=0.6), "accuracy is estimated 50.0%"),
        (replace(POLICY, on=("schedule",), every_days=1), "days since the last training"),
        (replace(POLICY, on=("labels",), new_labels=30), "30 new labels"),
    ],
)
def test_without_an_alarm_other_reasons_count(
    with_store: Callable[[Any], None], tmp_path: Path, policy: Policy, words: str
) -> None:
    async def story(world: World) -> None:
        world.since = {"edge-1": NOW - 1e6}
        async with world.store.begin() as session:
            (await session.get_one(Alarm, 1)).state = "resolved"
            (await session.get_one(Run, 1)).created = NOW - 1e6
        await world.start().tick()
        assert world.started == []
        await world.start(policy).tick()
        (row,) = await world.store.all(select(Retraining))
        assert words in row.reason and row.alarms == [] and world.started == [("w", 2)]

    tell(with_store, tmp_path, Steps(), story)


def test_a_month_whose_budget_is_spent_waits(with_store: Callable[[Any], None], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        async with world.store.begin() as session:
            (await session.get_one(Run, 1)).seconds = 600.0
            session.add(Retraining(workload="w", champion=1, alarms=[], state="done", reason="", began=NOW - 7200,
                                   ended=NOW - 7000, run=1))  # fmt: skip
        retrainer = world.start(replace(POLICY, budget_minutes=19))
        await retrainer.tick()
        assert world.steps.calls == []
        assert "10.00 minutes are spent, another 10.00 would exceed" in retrainer.verdicts["w"].reason

    tell(with_store, tmp_path, Steps(), story)


@pytest.mark.parametrize(("shared", "waits"), [({}, True), ({"w": replace(POLICY, budget_minutes=19)}, False)])
def test_a_budget_counts_what_shares_it(
    with_store: Callable[[Any], None], tmp_path: Path, shared: dict[str, Policy], waits: bool
) -> None:
    async def story(world: World) -> None:
        async with world.store.begin() as session:
            session.add(Dataset(workload="v", number=1, parent=0, created=NOW, sha256="", rows=1, sources={}))
            await session.flush()
            session.add(Run(workload="v", dataset=1, parent=0, code="", state="compressed", created=NOW, accuracy=0.9,
                            seconds=1200.0))  # fmt: skip
            session.add(Retraining(workload="v", champion=1, alarms=[], state="done", reason="", began=NOW - 7200,
                                   ended=NOW - 7000, run=2))  # fmt: skip
        await world.start(replace(POLICY, budget_minutes=19), **shared).tick()
        assert (world.steps.calls == []) is waits

    tell(with_store, tmp_path, Steps(), story)


def test_a_workload_of_its_own_policy_is_retrained_by_that(with_store: Callable[[Any], None], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        off = replace(POLICY, enabled=False)
        retrainer = world.start(POLICY, w=off)
        await retrainer.tick()
        assert world.steps.calls == [] and retrainer.verdicts["w"].reason == "retraining is off"
        await world.start(off, w=replace(POLICY, approval=True)).tick()
        assert world.steps.calls and world.started == []

    tell(with_store, tmp_path, Steps(), story)


def test_what_was_begun_waits_while_retraining_is_off(with_store: Callable[[Any], None], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        async with world.store.begin() as session:
            session.add(Retraining(workload="w", champion=1, alarms=[], reason="", began=NOW, run=1))
        await world.start(replace(POLICY, enabled=False)).tick()
        assert world.steps.calls == []

    tell(with_store, tmp_path, Steps(), story)


def test_too_few_labels_wait(with_store: Callable[[Any], None], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.retrainer.tick()
        assert world.steps.calls == [] and await world.notes() == []

    tell(with_store, tmp_path, Steps(), story, labels=29)


def test_faulty_data_never_retrain(with_store: Callable[[Any], None], tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.retrainer.tick()
        assert world.steps.calls == [] and await world.notes() == []

    tell(with_store, tmp_path, Steps(), story, kind="data-quality")


@pytest.mark.parametrize("steps", [Steps(passed=False), Steps(broken=LinkError("gone"))])
def test_a_candidate_that_fails_is_an_event_and_cools_down(
    with_store: Callable[[Any], None], tmp_path: Path, steps: Steps
) -> None:
    async def story(world: World) -> None:
        await world.retrainer.tick()
        assert world.started == []
        assert (await world.notes())[-1] == ("retraining", "given up")
        assert await world.healths() == ["harm", "retrain", "drift"]
        calls = len(world.steps.calls)
        await world.retrainer.tick()
        assert len(world.steps.calls) == calls  # cooling down

    tell(with_store, tmp_path, steps, story)


@pytest.mark.parametrize(("release", "runs"), [(2, "w/2"), (0, "no w")])
def test_an_alarm_is_answered_once_its_device_runs_something_newer_or_nothing(
    with_store: Callable[[Any], None], tmp_path: Path, release: int, runs: str
) -> None:
    async def story(world: World) -> None:
        async with world.store.begin() as session:
            installed = await session.get_one(Installed, ("edge-1", "w"))
            if release:
                installed.release = release
            else:
                await session.delete(installed)
        await world.retrainer.tick()
        (alarm,) = await world.store.all(select(Alarm))
        assert (alarm.state, alarm.health) == ("resolved", "ok") and world.steps.calls == []
        events = await world.store.all(select(Event).where(Event.kind == "alarm"))
        assert [event.reason for event in events] == ["edge-1: w/1 runs no more"]

    tell(with_store, tmp_path, Steps(), story)
