"""Asking and timing. All times in µs."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SETTLED_S = 2.5  # of load, after which an agent samples as often as suits it

Call = Callable[[], object]
Times = NDArray[np.float64]
CLIENT, SERVER = max(os.sched_getaffinity(0)), min(os.sched_getaffinity(0))  # cores


@dataclass(frozen=True)
class Paced:
    """Answers at a steady rate: when each was asked (seconds, monotonic), how long it took, how many failed."""

    asked: Times
    took: Times
    failed: int

    def between(self, start: float, end: float) -> Times:
        return self.took[(self.asked >= start) & (self.asked < end)]


def p(times: Times, percent: float) -> float:
    return float(np.percentile(times, percent))


def timed(call: Call, count: int) -> Times:
    times = np.empty(count)
    for i in range(count):
        start = time.perf_counter_ns()
        call()
        times[i] = time.perf_counter_ns() - start
    return times / 1e3


@dataclass(frozen=True)
class Rounds:
    """Times of one call, a row a round."""

    times: Times

    def p(self, percent: float) -> float:
        """Of all rounds together."""
        return p(self.times, percent)

    def each(self, percent: float) -> Times:
        """Of each round."""
        return np.asarray(np.percentile(self.times, percent, axis=1))


def alternating(calls: Sequence[Call], rounds: int, size: int) -> list[Rounds]:
    """Each call ``size`` times and then the next, for so many rounds: a busy machine troubles them alike."""
    for call in calls:
        timed(call, 500)
    times = np.array([[timed(call, size) for call in calls] for _ in range(max(1, rounds))])
    return [Rounds(times[:, i]) for i in range(len(calls))]


@contextmanager
def favoured() -> Iterator[bool]:
    """Let the kernel prefer this session to all others of a busy machine, if it may be asked to (root may)."""
    autogroup = Path("/proc/self/autogroup")
    try:
        autogroup.write_text("-20")
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        autogroup.write_text("0")


def paced(call: Call, rate: float, stop: threading.Event) -> Paced:
    """Ask at a steady rate until ``stop`` is set. What fails is counted, and not timed."""
    asked, took, failed, due = list[float](), list[float](), 0, time.monotonic()
    while not stop.is_set():
        time.sleep(max(0.0, due - time.monotonic()))
        start = time.monotonic()
        try:
            call()
        except Exception:  # noqa: BLE001 - whatever it is, the application has no answer
            failed += 1
        else:
            took.append((time.monotonic() - start) * 1e6)
            asked.append(start)
        due = max(due + 1 / rate, time.monotonic() - 0.1)
    return Paced(np.array(asked), np.array(took), failed)


def at_rate(call: Call, rate: float, seconds: float) -> Times:
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    return paced(call, rate, stop).took


def throughput(make: Callable[[], Call], clients: int, seconds: float, settled_s: float = SETTLED_S) -> float:
    """Answers a second to so many clients, each in a thread of its own, that have asked for ``settled_s`` before."""
    counts, stop = [0] * clients, threading.Event()

    def ask(i: int, call: Call) -> None:
        while not stop.is_set():
            call()
            counts[i] += 1

    threads = [threading.Thread(target=ask, args=(i, make())) for i in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(settled_s)
    before, start = sum(counts), time.monotonic()
    time.sleep(seconds)
    found = (sum(counts) - before) / (time.monotonic() - start)
    stop.set()
    for thread in threads:
        thread.join()
    return found


def memory_mb(pid: int | str = "self", field: str = "Rss") -> float:
    """Resident memory; ``field`` Pss: with its share only of what other processes map too."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in rollup if line.startswith(f"{field}:")) / 1024


def on(core: int) -> list[str]:
    """The beginning of a command that runs on this core. No ``preexec_fn``: gRPC's threads do not outlive its fork."""
    return ["taskset", "--cpu-list", str(core)]
