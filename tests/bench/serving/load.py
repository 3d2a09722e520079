"""Asking and timing. All times in µs."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def alternating(calls: Sequence[Call], rounds: int, size: int) -> list[Times]:
    """Each call ``rounds * size`` times, in turns, so that a noisy neighbour troubles them alike."""
    for call in calls:
        timed(call, 200)
    times: list[list[Times]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, collected in zip(calls, times, strict=True):
            collected.append(timed(call, size))
    return [np.concatenate(collected) for collected in times]


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


def throughput(make: Callable[[], Call], clients: int, seconds: float) -> float:
    """Answers a second to so many clients, each in a thread of its own."""
    counts, stop = [0] * clients, threading.Event()

    def ask(i: int, call: Call) -> None:
        while not stop.is_set():
            call()
            counts[i] += 1

    threads = [threading.Thread(target=ask, args=(i, make())) for i in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    before, start = sum(counts), time.monotonic()
    time.sleep(seconds)
    found = (sum(counts) - before) / (time.monotonic() - start)
    stop.set()
    for thread in threads:
        thread.join()
    return found


def memory_mb(pid: int | str = "self", field: str = "VmRSS") -> float:
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123 - no file of ours
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def on(core: int) -> dict[str, Any]:
    """For Popen: run it on this core."""
    return {"preexec_fn": lambda: os.sched_setaffinity(0, {core})}
