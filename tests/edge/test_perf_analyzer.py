"""Triton's perf_analyzer against the agent's servers, where it is here (`pip install perf-analyzer`; glibc 2.38)."""

import shutil
import subprocess

import pytest

from skerry_shared import bundle

PROGRAM = shutil.which("perf_analyzer")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PROGRAM, reason="perf_analyzer is not installed")]

QUICK = ("--measurement-mode", "count_windows", "--measurement-request-count", "50", "-s", "1000")
WAYS = {
    "grpc": ("-i", "grpc"),
    "grpc-async": ("-i", "grpc", "--async", "--concurrency-range", "4"),
    "grpc-stream": ("-i", "grpc", "--streaming", "--concurrency-range", "2"),
    "http": ("-i", "http"),
    "http-batch": ("-i", "http", "-b", "2"),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_measures_the_agent(way: str, ports: dict[str, int], tiny: bundle.Bundle) -> None:
    assert PROGRAM
    where = f"127.0.0.1:{ports[way.partition('-')[0]]}"
    command = [PROGRAM, "-m", "tiny", "-u", where, *WAYS[way], *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Successful request count" in done.stdout and "throughput" in done.stdout
