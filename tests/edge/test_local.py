"""Reports on their way to the agent: what waits for it, in which order it goes, and what gives way."""

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from skerry_edge.serve import local
from skerry_edge.serve.listen import start_grpc
from skerry_edge.serve.local import OVERHEAD, Reporter
from skerry_shared import telemetry


def report(size: int) -> bytes:
    return telemetry.pack(os.urandom(size))


class Agent:
    """Takes all that comes, labels as a table of pairs; the first report only when it is told to go on."""

    def __init__(self, socket: Path) -> None:
        self.came, self.asked, self.go_on = list[tuple[str, bytes]](), threading.Event(), threading.Event()
        self.server, _ = start_grpc(f"unix:{socket}", None, local.handlers(self.take, self.learn))

    def take(self, table: str, payload: bytes) -> None:
        self.asked.set()
        assert self.go_on.wait(30)
        self.came.append((table, payload))

    def learn(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.came.extend((name, label.encode()) for name, label in pairs)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "agent.sock")
    yield agent
    agent.server.stop(None).wait()


@pytest.fixture
def reporter(agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reporter]:
    """Of an application whose agent does not answer its first report yet."""
    monkeypatch.setattr(local, "CLOSE_S", 30.0)
    reporter = Reporter(tmp_path / "agent.sock")
    reporter.submit("load", report(1))
    assert agent.asked.wait(30)
    yield reporter
    agent.go_on.set()
    reporter.close()


def finish(agent: Agent, reporter: Reporter) -> list[tuple[str, bytes]]:
    """What comes after the first report."""
    agent.go_on.set()
    reporter.close()
    return agent.came[1:]


def test_the_oldest_samples_give_way_then_the_oldest_counts(
    agent: Agent, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, samples = [report(100) for _ in range(4)], [report(2000) for _ in range(3)]
    monkeypatch.setattr(local, "WAITING_BYTES", sum(len(each) + OVERHEAD for each in (*counts[:2], *samples[:2])))
    for count, sample in zip(counts, samples[:2], strict=False):
        reporter.submit("samples", sample)
        reporter.submit("windows", count)
    assert reporter.dropped == 0
    reporter.submit("samples", samples[2])
    assert reporter.dropped == 1
    reporter.submit("windows", counts[2])
    assert reporter.dropped == 2
    assert finish(agent, reporter) == [*(("windows", count) for count in counts[:3]), ("samples", samples[2])]
    reporter.submit("windows", counts[3])
    reporter.label("p1", "boot")
    assert reporter.dropped == 4


def test_counts_give_way_to_counts(agent: Agent, reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [report(100) for _ in range(4)]
    monkeypatch.setattr(local, "WAITING_BYTES", sum(len(count) + OVERHEAD for count in counts[:3]))
    for count in counts:
        reporter.submit("windows", count)
    assert reporter.dropped == 1
    assert finish(agent, reporter) == [("windows", count) for count in counts[1:]]


def test_late_labels_do_not_wait_for_what_gathered_before(agent: Agent, reporter: Reporter) -> None:
    for _ in range(100):
        reporter.submit("windows", report(10))
    reporter.label("p1", "boot")
    came = finish(agent, reporter)
    assert came.index(("p1", b"boot")) < 3 and len(came) == 101


def test_what_the_agent_refuses_is_said(agent: Agent, reporter: Reporter, caplog: pytest.LogCaptureFixture) -> None:
    agent.asked.clear()
    reporter.submit("events", report(10))
    reporter.submit("windows", report(20))
    agent.go_on.set()
    assert agent.asked.wait(30)
    assert reporter.dropped == 1
    (said,) = caplog.messages
    assert said.startswith("1 of the reports and late labels dropped: table: 'events'; an application may report")


def test_what_no_agent_took_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local, "CLOSE_S", 0.1)
    reporter = Reporter(tmp_path / "nobody.sock")
    for table in ("windows", "windows", "samples"):
        reporter.submit(table, report(10))
    reporter.label("p1", "boot")
    reporter.close()
    assert reporter.dropped == 4
    assert caplog.messages == ["closed before the agent took 4 of the reports and late labels"]
