"""Benchmark jobs: what they wait for, what they tell, and what a kill leaves. Providers are made up."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skerry_edge.infer.choose import Finding
from skerry_edge.update.bench import LOOK_S, RETRY_S, Bench, Row, Site
from skerry_edge.update.plan import Device, Floor, authenticate
from skerry_edge.update.world import Door, Transition
from skerry_shared import bundle
from skerry_shared.bundle import Bundle
from skerry_shared.errors import LinkError, SignatureError
from skerry_shared.release import Manifest

pytestmark = pytest.mark.arm64

Release = Callable[..., tuple[bytes, Manifest]]
Assign = Callable[..., bytes]
FOUND = Finding("cpu", "", 1e-6, 3.1, 20.0, 1, 4.0)


@dataclass
class Board:
    """A device without threads, and what it told."""

    folder: Path
    director: Ed25519PrivateKey
    bundles: dict[str, bytes] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    turned_away: list[Transition] = field(default_factory=list)
    surveyed: list[int] = field(default_factory=list)
    busy: str = ""
    found: Callable[[Callable[[str], None]], Sequence[Finding]] = lambda _: [FOUND]
    now: float = 2000.0
    killed: bool = False

    def bench(self) -> Bench:
        """The agent starts."""
        site = Site(
            device=Device("harbour", "pump-7", os.uname().machine, ("onnxruntime",), 1 << 30),
            device_class="abc",
            repository=self,
            floor=Floor(lambda: self.now),
            occupied=lambda: self.busy,
            survey=self.survey,
            report=self.report,
            clock=lambda: self.now,
        )
        made = Bench(site, self.folder, Door(self.turned_away.append, lambda: self.now))
        made.start()
        return made

    def fetch(self, path: str, sha256: str, length: int) -> bytes:
        if not self.bundles:
            raise LinkError("out of reach")
        if sha256 not in self.bundles:
            raise SignatureError(f"{path}: not signed")
        return self.bundles[sha256]

    def survey(self, unpacked: Bundle, progress: Callable[[str], None]) -> Sequence[Finding]:
        assert unpacked.model.is_file()
        self.surveyed.append(unpacked.manifest.release)
        return self.found(progress)

    def report(self, rows: Sequence[Row]) -> None:
        if self.killed:
            raise KeyboardInterrupt
        self.rows += rows

    def order(self, data: bytes) -> Any:
        return authenticate(data, self.director.public_key(), Device("harbour", "pump-7", "", (), 0))


@pytest.fixture
def board(tmp_path: Path, director: Ed25519PrivateKey) -> Board:
    return Board(tmp_path / "bench", director)


@pytest.fixture
def job(board: Board, release: Release, assign: Assign) -> bytes:
    data = release(0)[0]
    board.bundles[bundle.digest(data)] = data
    return assign(data, 0, 7, mode="measure")


def test_a_candidate_is_measured_told_of_and_gone(board: Board, job: bytes) -> None:
    bench = board.bench()
    assert bench.advance() is None and not board.rows
    bench.receive(board.order(job))
    assert bench.advance() is None
    (row,) = board.rows
    assert row == {
        "time": 2000.0, "workload": "tiny", "job": 7, "sha256": next(iter(board.bundles)), "provider": "cpu",
        "fault": "", "max_diff": 1e-6, "p50_ms": 3.1, "load_ms": 20.0, "memory_mb": 4.0, "device_class": "abc",
    }  # fmt: skip
    assert [path.name for path in board.folder.iterdir()] == ["job"]
    bench.receive(board.order(job))  # told again, as at each link
    assert bench.advance() is None and len(board.rows) == 1 and not board.turned_away


def test_each_provider_is_a_row_also_one_that_cannot_be_used(board: Board, job: bytes) -> None:
    board.found = lambda _: [Finding("tensorrt", "crashed (SIGSEGV)"), FOUND]
    bench = board.bench()
    bench.receive(board.order(job))
    bench.advance()
    assert [(row["provider"], row["fault"]) for row in board.rows] == [("tensorrt", "crashed (SIGSEGV)"), ("cpu", "")]


def test_it_waits_until_the_device_is_idle(board: Board, job: bytes) -> None:
    board.busy = "an update of tiny is under way"
    bench = board.bench()
    bench.receive(board.order(job))
    assert bench.advance() == LOOK_S and not board.surveyed
    board.busy = ""
    assert bench.advance() is None and board.rows


def test_it_gives_way_when_the_device_is_no_longer_idle(board: Board, job: bytes) -> None:
    def interrupted(progress: Callable[[str], None]) -> Sequence[Finding]:
        board.busy = "the board is hot"
        progress("cpu: being measured for 5 s")
        raise AssertionError("it went on")

    board.found, bench = interrupted, board.bench()
    bench.receive(board.order(job))
    assert bench.advance() == LOOK_S
    assert not board.rows and [path.name for path in board.folder.iterdir()] == ["job"]
    board.busy, board.found = "", lambda _: [FOUND]
    assert bench.advance() is None and len(board.rows) == 1


def test_a_job_that_was_killed_before_its_rows_were_durable_is_done_again(board: Board, job: bytes) -> None:
    board.killed, bench = True, board.bench()
    bench.receive(board.order(job))
    with pytest.raises(KeyboardInterrupt):
        bench.advance()
    (board.folder / "candidate").mkdir()  # what a kill leaves
    board.killed, again = False, board.bench()
    assert again.advance() is None
    assert len(board.rows) == 1 and board.surveyed == [0, 0]
    assert board.bench().advance() is None and len(board.rows) == 1


def test_a_link_may_come_back(board: Board, job: bytes) -> None:
    bundles, board.bundles = board.bundles, {}
    bench = board.bench()
    bench.receive(board.order(job))
    assert bench.advance() == RETRY_S
    board.bundles = bundles
    assert bench.advance() is None and board.rows


def test_a_replay_is_turned_away(board: Board, job: bytes, release: Release, assign: Assign) -> None:
    bench = board.bench()
    bench.receive(board.order(job))
    bench.advance()
    board.bench().receive(board.order(assign(release(0)[0], 0, 6, mode="measure")))
    assert "counter 6 of tiny is not above 7" in board.turned_away[0].reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sha256": "00" * 32}, "not signed"),
        ({"workload": "ear"}, "is tiny 0, not what was assigned"),
        ({"expires": 2500}, "expired 500 s ago"),
    ],
)
def test_what_cannot_be_measured_says_why(
    board: Board, release: Release, assign: Assign, job: bytes, changes: dict[str, Any], reason: str
) -> None:
    bench = board.bench()
    bench.receive(board.order(assign(release(0)[0], 0, 8, mode="measure", **changes)))
    board.now = 3000.0
    assert bench.advance() is None
    (row,) = board.rows
    assert reason in row["fault"] and row["provider"] == "" and row["job"] == 8
    assert not board.surveyed
