"""Reports on their way to the agent: what waits for it, and what gives way."""

import os
from pathlib import Path

import pytest

from skerry_edge.serve import local
from skerry_edge.serve.listen import start_grpc
from skerry_edge.serve.local import Reporter
from skerry_shared import telemetry

SAMPLES = 6


def report(size: int) -> bytes:
    return telemetry.pack(os.urandom(size))


def test_samples_give_way_to_counts_and_the_newest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "WAITING_BYTES", 4000)
    monkeypatch.setattr(local, "CLOSE_S", 30.0)
    socket, came = tmp_path / "agent.sock", list[tuple[str, bytes]]()
    reporter = Reporter(socket)
    counts, samples = [report(100) for _ in range(3)], [report(1500) for _ in range(SAMPLES)]
    for i in range(3):
        reporter.submit("windows", counts[i])
        reporter.submit("samples", samples[2 * i])
        reporter.submit("samples", samples[2 * i + 1])
    server, _ = start_grpc(
        f"unix:{socket}", None, local.handlers(lambda *given: came.append(given), lambda pairs: None)
    )
    reporter.close()
    server.stop(None).wait()
    assert [payload for table, payload in came if table == "windows"] == counts
    arrived = [payload for table, payload in came if table == "samples"]
    assert arrived[-1] == samples[-1] and len(arrived) + reporter.dropped == SAMPLES
    assert sum(map(len, arrived)) <= 4000 + 2 * 1600  # one or two were on their way before it was too much


def test_counts_give_way_to_counts_and_one_report_may_be_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "WAITING_BYTES", 1000)
    monkeypatch.setattr(local, "CLOSE_S", 30.0)
    socket, came = tmp_path / "agent.sock", list[bytes]()
    reporter, reports = Reporter(socket), [report(size) for size in (600, 600, 600, 2000)]
    for payload in reports:
        reporter.submit("windows", payload)
    server, _ = start_grpc(
        f"unix:{socket}", None, local.handlers(lambda _, payload: came.append(payload), lambda pairs: None)
    )
    reporter.close()
    server.stop(None).wait()
    assert came[-1] == reports[-1] and len(came) + reporter.dropped == 4
    assert reporter.dropped >= 2
