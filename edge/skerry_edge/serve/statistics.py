"""What was asked of a model and how long it took, as the statistics extension counts it. Times in nanoseconds.

``queue`` and the cache's counts stay zero: waiting is part of ``compute_infer`` here, and there is no cache.
"""

import threading
import time
from typing import Any

SIZES = 64  # batch sizes that get a row of their own; the totals count all of them

Duration = dict[str, int]
STEPS = ("compute_input", "compute_infer", "compute_output")


class Statistics:
    """Counts of one release since the agent started. Any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms = self._examples = 0
        self._totals = {name: _zero() for name in ("success", "fail", *STEPS)}
        self._sizes: dict[int, dict[str, Duration]] = {}

    def succeeded(self, examples: int, steps: tuple[int, int, int]) -> None:
        """An answered request; ``steps`` are the times to read it, to run the model, and to write the reply."""
        with self._lock:
            self._last_ms = time.time_ns() // 1_000_000
            self._examples += examples
            _add(self._totals["success"], sum(steps))
            rows = [self._totals, self._row(examples)]
            for row in rows:
                for name, spent in zip(STEPS, steps, strict=True):
                    _add(row[name], spent)

    def failed(self, spent: int) -> None:
        """A request that got an error."""
        with self._lock:
            self._last_ms = time.time_ns() // 1_000_000
            _add(self._totals["fail"], spent)

    def document(self) -> dict[str, Any]:
        """The counts as $model_stat, without name and version."""
        with self._lock:
            unused = {name: _zero() for name in ("queue", "cache_hit", "cache_miss")}
            return {
                "last_inference": self._last_ms,
                "inference_count": self._examples,
                "execution_count": self._totals["success"]["count"],
                "inference_stats": {name: dict(value) for name, value in (self._totals | unused).items()},
                "batch_stats": [
                    {"batch_size": size} | {name: dict(value) for name, value in row.items()}
                    for size, row in sorted(self._sizes.items())
                ],
            }

    def _row(self, examples: int) -> dict[str, Duration]:
        if examples not in self._sizes and len(self._sizes) >= SIZES:
            return {name: _zero() for name in STEPS}  # counted in the totals only
        return self._sizes.setdefault(examples, {name: _zero() for name in STEPS})


def _zero() -> Duration:
    return {"count": 0, "ns": 0}


def _add(duration: Duration, spent: int) -> None:
    duration["count"] += 1
    duration["ns"] += spent
