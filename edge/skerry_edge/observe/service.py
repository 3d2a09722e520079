"""How each model served, told by window of time: answers, errors, latency, and how hot and how fast the board was.

The times are those that a guard took of each run. A window in which a model did not run has no row of it.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skerry_edge.observe.arrow import pack
from skerry_edge.observe.span import Span
from skerry_shared import latency, telemetry

LOOK_S = 5.0  # between looks at the board
KEPT = 64  # releases that are asked for runs; the oldest gave their last ones long ago

Sink = Callable[[str, bytes], None]  # (table, packed rows)
Model = tuple[str, int]  # workload and release


class Guard(Protocol):
    """Who times runs; see ``protect.guard``."""

    def runs(self) -> Sequence[tuple[float, int]]:
        """Seconds and examples of each run since the last call; no examples: it failed."""
        ...


class Condition(Protocol):
    """How the board fares now; see ``board``."""

    @property
    def hottest_c(self) -> float | None: ...  # noqa: D102
    @property
    def throttled(self) -> bool: ...  # noqa: D102
    @property
    def power_mode(self) -> str: ...  # noqa: D102


@dataclass
class Served:
    """What one model did in a window."""

    answered: int = 0
    errors: int = 0
    latency: NDArray[np.int64] = field(default_factory=lambda: np.zeros(latency.BINS, np.int64))

    def add(self, runs: Sequence[tuple[float, int]]) -> None:
        """More runs: their seconds and examples."""
        seconds, examples = np.fromiter(chain.from_iterable(runs), np.float64).reshape(-1, 2).T
        self.answered += int(examples.sum())
        self.errors += int((examples == 0).sum())
        self.latency += latency.count(seconds)


class ServiceLog:
    """Tells the sink of each window in which a model ran. Thread-safe."""

    def __init__(self, condition: Callable[[], Condition], sink: Sink, span: Span) -> None:
        """``span`` says when a window is over."""
        self._condition, self._sink, self._span = condition, sink, span
        self._looks = Span(LOOK_S, span.clock, span.timer)
        self._lock, self._guards = threading.Lock(), dict[Model, Guard]()
        self._served = dict[Model, Served]()
        self._hottest, self._throttled_s = telemetry.NO_HEAT, 0.0

    def watch(self, workload: str, release: int, guard: Guard) -> None:
        """From now on this guard sees the runs of this release."""
        with self._lock:
            self._collect()
            self._guards.pop((workload, release), None)
            self._guards[workload, release] = guard
            for model in list(self._guards)[:-KEPT]:
                del self._guards[model]

    def tick(self) -> None:
        """Collect, look at the board if that is due, tell of the window if it is over. Call it about once a second."""
        with self._lock:
            self._collect()
            if self._looks.over:
                self._look()
        if self._span.over:
            self.flush()

    def flush(self) -> None:
        """Tell of the window so far, and begin the next one."""
        with self._lock:
            self._collect()
            mode = self._look()
            span, served, board = self._span.next(), self._served, (self._hottest, self._throttled_s, mode)
            self._served, self._hottest, self._throttled_s = {}, telemetry.NO_HEAT, 0.0
        rows = [(*model, *span, one.answered, one.errors, one.latency, *board) for model, one in sorted(served.items())]
        if rows:
            columns: dict[str, Any] = dict(zip(telemetry.TABLES["service"], zip(*rows, strict=True), strict=True))
            self._sink("service", pack("service", columns))

    def _collect(self) -> None:
        for model, guard in self._guards.items():
            if runs := guard.runs():
                self._served.setdefault(model, Served()).add(runs)

    def _look(self) -> str:
        """Note how the board fares; its power mode."""
        now, (start, end) = self._condition(), self._looks.next()
        self._hottest = max(self._hottest, telemetry.NO_HEAT if now.hottest_c is None else now.hottest_c)
        self._throttled_s += (end - start) * now.throttled
        return now.power_mode
