"""What of the drawn samples goes home: within each model's budget of bytes, and in the precision that is declared.

Whoever is on the device to see samples (a new model's proof, a shadow) sees them before: exact, and all of them.
"""

import random
import threading
from collections.abc import Callable

from skerry_edge.observe.arrow import Rows, pack
from skerry_edge.observe.sampling import Budget
from skerry_shared.errors import InputError
from skerry_shared.inputs import lossy


class Homeward:
    """One device's. Any thread."""

    def __init__(
        self, day_bytes: float, reduced: bool, put: Callable[[str, bytes], None], lose: Callable[[str, str], None],
        timer: Callable[[], float], draw: Callable[[], float] = random.random,
    ) -> None:  # fmt: skip
        """``day_bytes`` for each workload; ``reduced`` lets inputs lose bits (see ``inputs.lossy``).

        ``put`` takes (table, packed rows), ``lose`` (table, reason) where a batch is not passed on. ``draw`` gives
        uniform numbers in [0, 1).
        """
        self._day_bytes, self._reduced, self._put, self._lose = day_bytes, reduced, put, lose
        self._timer, self._draw = timer, draw
        self._budgets, self._lock = dict[str, Budget](), threading.Lock()

    def send(self, rows: Rows) -> None:
        """Pass on what the budget allows of a batch of samples. Raises InputError if it is none of one model."""
        if len(workloads := set(rows["workload"])) != 1:
            raise InputError(f"samples: workload: a batch is about one, not about {len(workloads)}")
        rows = _shortened(rows) if self._reduced else rows
        size = len(pack("samples", rows, thorough=False))  # near enough, and far quicker
        with self._lock:
            budget = self._budget(workloads.pop())
            kept = self._thinned(rows, budget.share(size, self._timer()))
            if not kept["workload"]:
                return
            payload = pack("samples", kept)
            paid = budget.pays(len(payload))
        if paid:
            self._put("samples", payload)
        else:
            self._lose("samples", f"{len(payload)} bytes are more than is left of sample_mb_day")

    def _budget(self, workload: str) -> Budget:
        if workload not in self._budgets:
            self._budgets[workload] = Budget(self._day_bytes, self._timer())
        return self._budgets[workload]

    def _thinned(self, rows: Rows, share: float) -> Rows:
        """Each row with the probability ``share``, which it says from now on."""
        if share == 1:
            return rows
        kept = [self._draw() < share for _ in rows["workload"]]
        thinned = {
            name: [value for value, stays in zip(column, kept, strict=True) if stays] for name, column in rows.items()
        }
        return thinned | {name: [value * share for value in thinned[name]] for name in ("probability", "audit")}


def _shortened(rows: Rows) -> Rows:
    """The same rows, with their inputs in fewer bits."""
    short = [lossy(raw, encoding) for raw, encoding in zip(rows["input"], rows["encoding"], strict=True)]
    return rows | {"input": [raw for raw, _ in short], "encoding": [encoding for _, encoding in short]}
