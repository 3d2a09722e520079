"""Watches the model that serves: its answers are noted on the hot path by two appends, and judged once a second."""

import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_edge.protect.judge import FAILED, Answers, Bounds, Patience, complaint, count
from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import Model, Tensors

JUDGED = 100  # of the last examples; enough for a share to mean something, few enough to notice within seconds
RUNS = 1 << 16  # whose times wait to be asked for: several seconds of the quickest model
USUAL = 1000  # examples by which the classes are known that this model answers here in good health


class Guard:
    """One model's. ``answered`` and ``failed`` may be called by any thread, ``look`` and ``runs`` by one each."""

    def __init__(self, labels: int, bounds: Bounds) -> None:
        self._bounds, self._patience = bounds, Patience()
        self._new: deque[tuple[float, NDArray[Any] | None]] = deque(maxlen=JUDGED)  # older ones would not count
        self._runs: deque[tuple[float, int]] = deque(maxlen=RUNS)  # seconds and examples, none where it failed
        self._last: deque[tuple[float, int]] = deque(maxlen=JUDGED)
        self._usual = np.zeros(labels, dtype=np.int64)

    def answered(self, seconds: float, scores: NDArray[Any]) -> None:
        """The model took so long for these scores, [examples, labels]."""
        self._new.append((seconds, scores))
        self._runs.append((seconds, len(scores)))

    def failed(self, seconds: float) -> None:
        """The model raised an error after so long."""
        self._new.append((seconds, None))
        self._runs.append((seconds, 0))

    def look(self) -> str:
        """A complaint that must be acted upon; empty for none, which is also the word where nothing was answered."""
        noted = [note for _ in range(len(self._new)) for note in _examples(*self._new.popleft())]
        if not noted:
            return ""
        self._last.extend(noted)
        found = complaint(_answers(list(self._last)), self._usual, self._bounds)
        self._patience = self._patience.after(found)
        if not found and self._usual.sum() < USUAL:
            self._usual += count(_answers(noted).classes, len(self._usual))
        return found if self._patience.over(self._bounds) else ""

    def runs(self) -> list[tuple[float, int]]:
        """Seconds and examples of each run since the last call; no examples: it failed."""
        return [self._runs.popleft() for _ in range(len(self._runs))]


class Guarded:
    """A model that its guard sees at work. Adds two looks at a clock and two appends to a call."""

    def __init__(self, model: Model, guard: Guard) -> None:
        self._model, self._guard = model, guard

    def run(self, inputs: Tensors) -> Tensors:
        """As the model's own."""
        began = time.perf_counter()
        try:
            outputs = self._model.run(inputs)
        except ModelError:
            self._guard.failed(time.perf_counter() - began)
            raise
        self._guard.answered(time.perf_counter() - began, outputs["scores"])
        return outputs


def _examples(seconds: float, scores: NDArray[Any] | None) -> list[tuple[float, int]]:
    if scores is None:
        return [(seconds, FAILED)]
    classes = np.where(np.isfinite(scores).all(axis=1), scores.argmax(axis=1), FAILED)
    return [(seconds, int(found)) for found in classes[-JUDGED:]]


def _answers(noted: list[tuple[float, int]]) -> Answers:
    seconds, classes = zip(*noted, strict=True)
    return Answers(np.array(seconds, dtype=np.float64), np.array(classes, dtype=np.int64))
