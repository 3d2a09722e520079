"""What was asked of a model and how long it took, as the statistics extension counts it. Times in nanoseconds.

Every request counts as queued, for perf_analyzer knows by that which version answered; the time that it waited is part
of ``compute_infer`` here. There is no cache: its counts stay zero.
"""

import threading
import time
from typing import Any

SIZES = 64  # batch sizes that get a row of their own; the totals count all of them
STEPS = ("compute_input", "compute_infer", "compute_output")


class _Row:
    """Requests, their examples, and the nanoseconds of each of their steps."""

    __slots__ = ("count", "examples", "infer", "input", "output")

    def __init__(self) -> None:
        self.count = self.examples = self.input = self.infer = self.output = 0

    def add(self, examples: int, read: int, run: int, write: int) -> None:
        self.count += 1
        self.examples += examples
        self.input += read
        self.infer += run
        self.output += write

    def include(self, other: "_Row") -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def document(self) -> dict[str, Any]:
        spent = (self.input, self.infer, self.output)
        return {name: _duration(self.count, ns) for name, ns in zip(STEPS, spent, strict=True)}


class Statistics:
    """Counts of one release since the agent started. Any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = self._failures = self._failing = 0
        self._sizes, self._others = dict[int, _Row](), _Row()

    def succeeded(self, examples: int, read: int, run: int, write: int) -> None:
        """An answered request, and the times to read it, to run the model, and to write the reply."""
        with self._lock:
            self._last = time.time_ns()
            row = self._sizes.get(examples) or self._new_row(examples)
            row.add(examples, read, run, write)

    def failed(self, spent: int) -> None:
        """A request that got an error."""
        with self._lock:
            self._last = time.time_ns()
            self._failures += 1
            self._failing += spent

    def document(self) -> dict[str, Any]:
        """The counts as $model_stat, without name and version."""
        with self._lock:
            total = self._total()
            sums = {
                "success": _duration(total.count, total.input + total.infer + total.output),
                "fail": _duration(self._failures, self._failing),
            }
            others = {"queue": _duration(total.count, 0), "cache_hit": _duration(0, 0), "cache_miss": _duration(0, 0)}
            return {
                "last_inference": self._last // 1_000_000,
                "inference_count": total.examples,
                "execution_count": total.count,
                "inference_stats": sums | total.document() | others,
                "batch_stats": [{"batch_size": size} | row.document() for size, row in sorted(self._sizes.items())],
            }

    def _total(self) -> _Row:
        total = _Row()
        for row in (*self._sizes.values(), self._others):
            total.include(row)
        return total

    def _new_row(self, examples: int) -> _Row:
        return self._sizes.setdefault(examples, _Row()) if len(self._sizes) < SIZES else self._others


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}
