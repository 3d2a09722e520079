from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from skerry_cloud.retrain.flow import Retrainer
from skerry_cloud.retrain.policy import Policy
from skerry_cloud.specs import Wanted
from skerry_cloud.store import Alarm, Bundle, Dataset, Device, Event, Installed, Release, Run, Store
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


class Steps:
    """Records what is asked of it, and what the sample file held."""

    def __init__(self, passed: bool = True, broken: Exception | None = None) -> None:
        self.calls: list[Any] = []
        self._passed, self._broken = passed, broken

    async def ingest(
        self, workload: str, actor: str, report: Any, samples: Path | None = None, parent: int = 0
    ) -> Dataset:
        assert samples
        with np.load(samples) as file:
            self.calls.append(("ingest", parent, file["labels"].tolist(), file["sources"].tolist()))
        return Dataset(workload=workload, number=2, parent=parent, created=NOW, sha256="", rows=1, sources={})

    async def train(self, workload: str, dataset: int, parent: int, epochs: int, actor: str, report: Any) -> Run:
        self.calls.append(("train", dataset, parent, epochs, actor))
        if self._broken:
            raise self._broken
        run = Run(workload=workload, dataset=dataset, parent=parent, code="", state="trained", created=NOW)
        run.id = 9
        return run

    async def compress(self, number: int, wanted: Wanted, actor: str, report: Any) -> None:
        self.calls.append(("compress", number, wanted))

    def recipes(self, number: int) -> tuple[str, ...]:
        return (f"recipe of run {number}",)

    async def compare(self, champion: int, candidate: int, max_loss: float | None, report: Any) -> Judged:
        self.calls.append(("compare", champion, candidate, max_loss))
        return Judged(self._passed)

    async def publish(self, number: int, reason: str, actor: str) -> Release:
        self.calls.append(("publish", number))
        return Release(workload="w", number=2, run=number, owner="o", created=NOW, reason=reason)


class World:
    """A store with a champion and an open alarm, and a retrainer on fakes."""

    def __init__(self, store: Store, folder: Path, steps: Steps, labels: int = 30) -> None:
        self.store, self.steps, self.labels = store, steps, labels
        self.started: list[tuple[str, int]] = []
        self.retrainer = Retrainer(store, steps, self._labelled, self._start, POLICY, folder, lambda: NOW)

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
                              health=kind, state="open", since=NOW - 60, raised=NOW,
                              summary="", detail={}))  # fmt: skip
        return self

    async def healths(self) -> list[str]:
        events = await self.store.all(select(Event).where(Event.kind == "health").order_by(Event.id))
        return [event.after for event in events]

    async def notes(self) -> list[tuple[str, str]]:
        events = await self.store.all(select(Event).where(Event.kind == "retrain").order_by(Event.id))
        return [(event.before, event.after) for event in events]

    async def _labelled(self, workload: str, since: Mapping[str, float]) -> Samples:
        assert (workload, since) == ("w", {"edge-1": NOW})
        size, wrong = self.labels, np.zeros(self.labels, bool)
        ones = np.ones(size)
        return Samples(np.zeros((size, 2)), np.arange(size), ["edge-1"] * size, ones.astype(int), wrong, ones)

    async def _start(self, workload: str, release: int) -> None:
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
            ("train", 2, 1, 7, "policy"),
            ("compress", 9, Wanted(("p",), recipes=("recipe of run 1",), device_minutes=0)),
            ("compare", 1, 9, 2.0),
            ("publish", 9),
        ]
        assert world.started == [("w", 2)]
        assert await world.notes() == [("", "retraining"), ("retraining", "release 2")]
        assert await world.healths() == ["harm", "retrain", "canary"]

    tell(with_store, tmp_path, Steps(), story)
    assert list(tmp_path.glob("*.npz")) == []


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
