"""Who is asked to measure, what is signed for it, and what happens when nobody answers."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from skerry_cloud import ondevice, runs
from skerry_cloud.compress.study import Answers, Figures, Goal, Machine, Search, Study, Trial, Verdict
from skerry_cloud.fleet.benchmarks import Benchmarks
from skerry_cloud.fleet.director import Candidate, Director, Order
from skerry_cloud.job import Progress
from skerry_cloud.keys import Keys
from skerry_cloud.ondevice import Devices, Subject
from skerry_cloud.release.repository import Repository
from skerry_cloud.store import Assignment, Bundle, Dataset, Device, Event, Release, Run, Store
from skerry_shared import identity, profiles, release, signing, wire
from skerry_shared.errors import ConfigError
from skerry_shared.release import ANY, Lineage, Manifest, Measured, Signed, TensorSpec

PROFILE = "generic-x86-64"
TARGET = profiles.load(PROFILE).target(PROFILE)
KIND = TARGET.kind
CANDIDATE = Candidate("w", f"w/0/{PROFILE}-ab.bundle", "ab" * 32, 9, TARGET)
NOW = 1_800_000_000.0


class Fleet:
    """A director, and what it sent to three devices of which two are linked."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self.store, self.sent, self.key = store, list[tuple[str, release.Assignment]](), keys.signer("director")
        self.director = Director(store, self.key, "test", 30, self.send)
        self.benchmarks = Benchmarks(self.director)
        self.answer: Callable[[str, release.Assignment], None] = lambda *_: None

    async def send(self, device: str, data: bytes) -> None:
        told = signing.verify(release.Assignment, wire.decode(Signed, data), self.key.public_key())
        self.sent.append((device, told))
        self.answer(device, told)

    async def build(self) -> "Fleet":
        async with self.store.begin() as session:
            for name, link in (("edge-0", ""), ("edge-1", "grpc"), ("edge-2", "mqtt")):
                session.add(Device(name=name, profile=PROFILE, state="enrolled", link=link))
            session.add(Dataset(workload="w", number=1, parent=0, created=NOW, sha256="", rows=1, sources={}))
            session.add(Run(workload="w", dataset=1, parent=0, code="", state="compressed", created=NOW))
            session.add(Release(workload="w", number=1, run=1, owner="o", created=NOW))
            await session.flush()
            manifest = Manifest("w", 1, "o", ("a", "b"), (), (), TARGET, Measured(1, 1, 1, 0), Lineage(1, "", 1, ""),
                                (), 0.1, "m")  # fmt: skip
            session.add(Bundle(workload="w", release=1, profile=PROFILE, path="w/1/x.bundle", sha256="1", length=9,
                               manifest=wire.to_json(manifest)))  # fmt: skip
        return self


Tell = Callable[[Callable[[Fleet], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def tell(with_store: Callable[[Any], None], fleet_keys: Keys) -> Tell:
    def run(story: Callable[[Fleet], Coroutine[Any, Any, None]]) -> None:
        async def main(store: Store) -> None:
            await story(await Fleet(store, fleet_keys).build())

        with_store(main)

    return run


def row(device: str, sha256: str, **changes: Any) -> dict[str, Any]:
    return {
        "device": device, "sha256": sha256, "job": 1, "device_class": "abc", "provider": "cpu", "fault": "",
        "max_diff": 0.0, "p50_ms": 3.1, "load_ms": 20.0, "memory_mb": 4.0,
    } | changes  # fmt: skip


def test_a_device_is_idle_that_is_linked_and_has_no_rollout(tell: Tell) -> None:
    async def story(fleet: Fleet) -> None:
        assert await fleet.director.idle(PROFILE) == "edge-1"
        assert await fleet.director.idle("raspberry-pi-5") is None
        await fleet.director.start(Order("w", 1, 1, 60, ("edge-1",)), "test", NOW)
        assert await fleet.director.idle(PROFILE) == "edge-2"
        await fleet.director.measure("edge-2", CANDIDATE, 60, NOW)
        assert await fleet.director.idle(PROFILE) is None
        fleet.director.measured("edge-2")
        async with fleet.store.begin() as session:
            await session.execute(update(Device).values(state="revoked"))
        assert await fleet.director.idle(PROFILE) is None

    tell(story)


def test_a_job_is_signed_expires_and_is_no_assignment_of_the_workload(tell: Tell) -> None:
    async def story(fleet: Fleet) -> None:
        await fleet.director.start(Order("w", 1, 1, 60, ("edge-1",)), "test", NOW)
        await fleet.director.measure("edge-1", CANDIDATE, 60, NOW)
        device, told = fleet.sent[-1]
        assert (device, told.mode, told.release, told.counter, told.expires) == ("edge-1", "measure", 0, 2, NOW + 60)
        assert (told.path, told.sha256, told.target) == (CANDIDATE.path, CANDIDATE.sha256, TARGET)
        signed = [wire.decode(Signed, one).document for one in await fleet.director.desired("edge-1")]
        assert [wire.decode(release.Assignment, one).release for one in signed] == [1, 0]
        assert await fleet.director.desired("edge-2") == []
        fleet.director.measured("edge-1")
        assert len(await fleet.director.desired("edge-1")) == 1
        events = await fleet.store.all(select(Event).where(Event.kind == "device"))
        assert [event.after for event in events] == [f"to measure {CANDIDATE.path}"]
        assert [told.release for told in await fleet.store.all(select(Assignment))] == [1]

    tell(story)


def test_who_asked_gets_the_rows_of_its_candidate(tell: Tell) -> None:
    async def story(fleet: Fleet) -> None:
        def answer(device: str, told: release.Assignment) -> None:
            rows = [row(device, told.sha256), row(device, told.sha256, provider="cuda", fault="crashed")]
            fleet.benchmarks.take([row("edge-2", told.sha256), row(device, "other"), *rows])

        fleet.answer = answer
        found = await fleet.benchmarks.measure("edge-1", CANDIDATE, 30)
        assert [each["provider"] for each in found] == ["cpu", "cuda"]
        assert await fleet.director.idle(PROFILE) == "edge-1"
        fleet.benchmarks.take([row("edge-1", CANDIDATE.sha256)])  # told once more: nobody waits

    tell(story)


def test_silence_ends_the_wait_and_the_job(tell: Tell) -> None:
    async def story(fleet: Fleet) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await fleet.benchmarks.measure("edge-1", CANDIDATE, 0.01)
        assert await fleet.director.desired("edge-1") == []

    tell(story)


class Answering:
    """Devices that answer so many times, and then no more."""

    def __init__(self, answers: int) -> None:
        self.left, self.asked = answers, list[Candidate]()

    async def idle(self, profile: str) -> str | None:
        return "edge-1" if profile == PROFILE else None

    async def measure(self, device: str, candidate: Candidate, seconds: float) -> list[Any]:
        self.asked.append(candidate)
        self.left -= 1
        if self.left < 0:
            raise asyncio.TimeoutError
        return [row(device, candidate.sha256)]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """A run whose two finalists are files, if not models."""
    folder = tmp_path / "run"
    declared = runs.Declared("w", "tests", ("a", "b"), TensorSpec("x", "float32", (ANY, 2)), ())
    (folder / "study").mkdir(parents=True)
    runs.write(folder / runs.DECLARED, declared)
    trials = []
    for recipe in ("slim", "half + slim"):
        variant = runs.finalist(folder, KIND, recipe)
        for side, name, width in (("in", "x", 2), ("out", "scores", 2)):
            variant.golden(side).mkdir(parents=True)
            np.save(variant.golden(side) / f"{name}.npy", np.zeros((3, width), np.float32))
        variant.model.write_bytes(recipe.encode())
        report = runs.VariantReport(KIND, recipe, 1, 0.9, 0.0, 0.0, 0.1, 1e-3, "", (), {})
        runs.write(variant.folder / runs.REPORT, report)
        verdict = Verdict("accuracy", "", True, 0.0, 0.0, 1.0, 5, "")
        trials.append(Trial(recipe, KIND, 0, (), Figures(0.9, 0.1, 1, 0.1, 0.5, recipe), (verdict,)))
    failed = replace(trials[0], recipe="dynamic", verdicts=(replace(trials[0].verdicts[0], passed=False),))
    search = Search(KIND, (PROFILE,), (*trials, failed), (), "slim", "")
    champion = Figures(0.9, 0.0, 1, 0.2, 1.0, "")
    machine, goal = Machine("a CPU", "x86_64", "onnxruntime 1"), Goal(1.0, 5.0)
    runs.write(folder / "study/study.json", Study("w", 1, NOW, machine, goal, champion, (search,)))
    return Subject(folder, "w", Lineage(1, "aa", 1, "abc"))


def ask(repository: Repository, benchmarks: ondevice.Benchmarks, subject: Subject) -> tuple[Answers, list[Progress]]:
    said = list[Progress]()

    async def main() -> tuple[Answers, ...]:
        devices = Devices(repository, asyncio.Lock(), benchmarks)
        asked = await devices.idle((PROFILE, "raspberry-pi-5"))
        assert asked == {PROFILE: "edge-1"}
        return await devices.ask(subject, asked, 60, said.append)

    (answers,) = asyncio.run(main())
    return answers, said


def test_all_that_passed_is_published_measured_and_withdrawn(
    repository: Repository, subject: Subject, tmp_path: Path
) -> None:
    benchmarks = Answering(9)
    answers, said = ask(repository, benchmarks, subject)
    assert answers.found.keys() == {"slim", "half + slim"} and not answers.silent
    assert answers.found["slim"][0].latency_ms == 3.1
    assert {candidate.path.partition("-")[0] for candidate in benchmarks.asked} == {"w/0/generic"}
    assert len({candidate.sha256 for candidate in benchmarks.asked}) == 2
    assert (said[-1].stage, said[-1].done, said[-1].total) == ("edge-1", 2, 2)
    assert repository.newest("w") == 0 and not list(tmp_path.rglob("*.bundle"))


def test_what_was_measured_in_time_counts_and_the_rest_is_said(repository: Repository, subject: Subject) -> None:
    answers, _ = ask(repository, Answering(1), subject)
    assert answers.found.keys() == {"slim"}
    assert answers.silent == "edge-1 answered 1 of 2 in time"


def test_where_nothing_can_be_published_the_answer_says_why(
    repository: Repository, subject: Subject, fleet_keys: Keys, tmp_path: Path
) -> None:
    (fleet_keys.folder / "offline").rename(tmp_path / "safe")
    answers, _ = ask(repository, Answering(9), subject)
    assert not answers.found and "edge-1 could not be asked: " in answers.silent and "targets key" in answers.silent
    with pytest.raises(ConfigError):
        repository.publish("w", 1, {"a": b"x"}, identity.utc(time.time()))
