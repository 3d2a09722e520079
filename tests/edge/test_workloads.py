"""Which workload an assignment is for, and what happens where one of several workers hangs or breaks."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skerry_edge.config import Health, Shadow
from skerry_edge.infer.models import load_model
from skerry_edge.update.flow import UpdateFlow
from skerry_edge.update.memory import Memory
from skerry_edge.update.plan import Device, Floor, Order, authenticate
from skerry_edge.update.slots import Slots
from skerry_edge.update.state import StateFile
from skerry_edge.update.workloads import Workloads
from skerry_edge.update.world import Door, Live, Transition, World
from skerry_shared import bundle
from skerry_shared.errors import LinkError
from skerry_shared.release import Manifest

pytestmark = pytest.mark.arm64

Release = Callable[..., tuple[bytes, Manifest]]
Assign = Callable[..., bytes]
PATIENCE = 30.0


class Crew:
    """A device with real workers; the repository may be slow for one workload."""

    def __init__(self, folder: Path, director: Ed25519PrivateKey, arch: str) -> None:
        self.folder, self.device = folder, Device("harbour", "pump-7", arch, ("onnxruntime",), 1 << 30)
        self.floor, self.memory = Floor(lambda: 2000.0), Memory(100)
        self.told: list[Transition] = []
        self.news = threading.Condition()
        self.bundles: dict[str, bytes] = {}
        self.jobs: list[Order] = []
        self.slow, self.serving, self.broken = threading.Event(), dict[str, int | None](), list[Exception]()
        self.slow.set()
        self.workloads = Workloads(
            lambda data: authenticate(data, director.public_key(), self.device), self.open,
            Door(self.report, lambda: 2000.0), lambda _: None, self.hear,
            self.jobs.append,
        )  # fmt: skip

    def open(self, name: str) -> UpdateFlow:
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        world = World(
            name, self.device, self, self.memory, self.floor, lambda unpacked: Live(unpacked, load_model(unpacked, 1)),
            lambda live: self.serve(name, live), self.report, lambda: 2000.0, lambda: 0.0, Health(proving_s=0),
            Shadow(), lambda _: None,
        )  # fmt: skip
        return UpdateFlow(world, Slots(self.folder / name), StateFile(self.folder / name / "update"))

    def fetch(self, path: str, sha256: str, length: int) -> bytes:
        if path.startswith("ear"):
            self.slow.wait(PATIENCE)
        if sha256 not in self.bundles:
            raise LinkError(f"{path}: out of reach")
        return self.bundles[sha256]

    def add(self, data: bytes) -> bytes:
        self.bundles[bundle.digest(data)] = data
        return data

    def serve(self, name: str, live: Live | None) -> None:
        self.serving[name] = live.release if live else None

    def hear(self, error: Exception) -> None:
        with self.news:
            self.broken.append(error)
            self.news.notify_all()

    def report(self, change: Transition) -> None:
        with self.news:
            self.told.append(change)
            self.news.notify_all()

    def until(self, workload: str, after: str, count: int = 1) -> Transition:
        def found() -> list[Transition]:
            return [change for change in self.told if (change.workload, change.after) == (workload, after)]

        with self.news:
            assert self.news.wait_for(lambda: len(found()) >= count, PATIENCE), self.told
        return found()[-1]


@pytest.fixture
def crew(tmp_path: Path, director: Ed25519PrivateKey) -> Iterator[Crew]:
    crew = Crew(tmp_path / "workloads", director, os.uname().machine)
    yield crew
    crew.slow.set()
    crew.workloads.close(in_order=True)


def test_each_workload_gets_its_own_and_a_slow_one_holds_up_no_other(
    crew: Crew, release: Release, assign: Assign
) -> None:
    for number in (1, 2):
        crew.workloads.desire(assign(crew.add(release(number)[0]), number, number))
        crew.until("tiny", "healthy", number)
    crew.slow.clear()
    ear = crew.add(release(1, workload="ear")[0])
    crew.workloads.desire(assign(ear, 1, 3, workload="ear"))
    crew.until("ear", "fetching")
    crew.workloads.complain("tiny", 2, "too slow")
    assert crew.until("tiny", "undone").reason == "too slow"
    assert crew.serving["tiny"] == 1
    crew.slow.set()
    crew.until("ear", "healthy")
    assert crew.serving == {"tiny": 1, "ear": 1}
    crew.workloads.desire(assign(b"", 0, 4, mode="drop", rollout=0))
    crew.until("tiny", "dropped")
    assert crew.serving == {"tiny": None, "ear": 1}


def test_all_go_on_after_a_restart(crew: Crew, release: Release, assign: Assign, director: Ed25519PrivateKey) -> None:
    crew.workloads.desire(assign(crew.add(release(1)[0]), 1, 1))
    crew.workloads.desire(assign(crew.add(release(1, workload="ear")[0]), 1, 2, workload="ear"))
    crew.until("tiny", "healthy")
    crew.until("ear", "healthy")
    crew.workloads.close(in_order=True)
    again = Crew(crew.folder, director, crew.device.arch)
    again.workloads.start(["ear", "tiny"])
    again.workloads.close(in_order=False)
    assert again.serving == {"tiny": 1, "ear": 1}
    assert (again.told, again.broken) == ([], [])


def test_a_replay_is_refused_for_each_workload_by_its_own_counter(crew: Crew, release: Release, assign: Assign) -> None:
    crew.workloads.desire(assign(crew.add(release(1)[0]), 1, 5))
    crew.until("tiny", "healthy")
    crew.workloads.desire(assign(crew.add(release(1, workload="ear")[0]), 1, 3, workload="ear"))  # came late
    crew.until("ear", "healthy")
    crew.workloads.desire(assign(crew.add(release(2)[0]), 2, 4))
    assert crew.until("", "refused").reason == "assignment: counter 4 of tiny is not above 5"


def test_a_clock_that_fell_back_does_not_revive_what_expired_whatever_it_is_about(
    crew: Crew, release: Release, assign: Assign
) -> None:
    crew.workloads.desire(assign(crew.add(release(1)[0]), 1, 1, issued=50_000))
    crew.until("tiny", "healthy")
    crew.workloads.desire(assign(crew.add(release(1, workload="ear")[0]), 1, 2, workload="ear", expires=40_000))
    assert "assignment: expired 10000 s ago" in crew.until("", "refused").reason


def test_a_benchmark_is_passed_on_and_touches_no_workload(crew: Crew, release: Release, assign: Assign) -> None:
    crew.slow.clear()
    crew.workloads.desire(assign(crew.add(release(1, workload="ear")[0]), 1, 1, workload="ear"))
    crew.until("ear", "fetching")
    assert crew.workloads.occupied() == "an update of ear is under way"
    crew.workloads.desire(assign(release(0)[0], 0, 2, mode="measure"))
    assert [order.assignment.counter for order in crew.jobs] == [2]
    assert not (crew.folder / "tiny").exists()
    crew.slow.set()
    crew.until("ear", "healthy")
    assert crew.workloads.occupied() == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": Ed25519PrivateKey.generate()}, "not signed by the trusted key"),
        ({"device": "pump-8"}, "this is 'pump-7'"),
        ({"mode": "mirror"}, "mode 'mirror' is unknown"),
        ({"workload": "../tiny"}, "workload: '../tiny' is not a name"),
    ],
)
def test_what_cannot_be_trusted_is_reported_once_and_makes_nothing(
    crew: Crew, assign: Assign, changes: dict[str, Any], reason: str
) -> None:
    for _ in range(3):
        crew.workloads.desire(assign(b"", 1, 1, **changes))
    (change,) = crew.told
    assert (change.before, change.after) == ("", "refused") and reason in change.reason
    assert not crew.folder.exists()


def test_an_error_that_is_none_of_ours_is_heard_of(crew: Crew, release: Release, assign: Assign) -> None:
    crew.serve = lambda *_: 1 // 0  # type: ignore[method-assign, assignment]
    crew.workloads.desire(assign(crew.add(release(1)[0]), 1, 1))
    with crew.news:
        assert crew.news.wait_for(lambda: crew.broken, PATIENCE)
    assert isinstance(crew.broken[0], ZeroDivisionError)
