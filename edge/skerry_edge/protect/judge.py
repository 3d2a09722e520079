"""Does the model that serves still do its job on this device? Pure: its last answers in, a complaint or none out.

Counted in answers, not in time, so that one bound serves a camera with 30 answers a second and a scale with one an
hour. Whoever acts on a complaint asks for patience first: it must be raised several looks in a row, each on new
answers, for a disk that was busy once is no fault of a model.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FAILED = -1  # in place of a class: no answer, or scores that are not finite numbers


class Bounds(Protocol):
    """What a model must keep to; see ``config.Protect``."""

    @property
    def min_answers(self) -> int: ...  # noqa: D102
    @property
    def max_error_share(self) -> float: ...  # noqa: D102
    @property
    def slo_ms(self) -> float: ...  # noqa: D102
    @property
    def slo_quantile(self) -> float: ...  # noqa: D102
    @property
    def max_shift(self) -> float: ...  # noqa: D102
    @property
    def patience(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Answers:
    """The last answers, in any order: ``seconds`` float64 and ``classes`` int64, one of each an answer."""

    seconds: NDArray[np.float64]
    classes: NDArray[np.int64]


def complaint(answers: Answers, usual: NDArray[np.int64], bounds: Bounds) -> str:
    """What the model does wrong; empty for nothing. ``usual`` counts its classes while it was in good health."""
    return _errors(answers, bounds) or _latency(answers, bounds) or _shift(answers, usual, bounds)


def shift(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Total variation distance of two class counts: the share of answers that moved to other classes, 0 to 1."""
    if not one.sum() or not other.sum():
        return 0.0
    return float(np.abs(one / one.sum() - other / other.sum()).sum() / 2)


def count(classes: NDArray[np.int64], labels: int) -> NDArray[np.int64]:
    """How often each of ``labels`` classes was answered."""
    return np.bincount(classes[classes >= 0], minlength=labels).astype(np.int64)


def _errors(answers: Answers, bounds: Bounds) -> str:
    total, failed = len(answers.classes), int((answers.classes == FAILED).sum())
    if total < bounds.min_answers or failed <= bounds.max_error_share * total:
        return ""
    return f"{failed} of its last {total} answers failed, allowed are {bounds.max_error_share:.0%}"


def _latency(answers: Answers, bounds: Bounds) -> str:
    if not bounds.slo_ms or len(answers.seconds) < bounds.min_answers:
        return ""
    found = float(np.quantile(answers.seconds, bounds.slo_quantile)) * 1e3
    if found <= bounds.slo_ms:
        return ""
    return f"{bounds.slo_quantile:.0%} of its answers take up to {found:.1f} ms, allowed are {bounds.slo_ms:g} ms"


def _shift(answers: Answers, usual: NDArray[np.int64], bounds: Bounds) -> str:
    found = count(answers.classes, len(usual))
    if min(found.sum(), usual.sum()) < bounds.min_answers or shift(found, usual) <= bounds.max_shift:
        return ""
    return f"{shift(found, usual):.0%} of its answers moved to other classes, allowed are {bounds.max_shift:.0%}"


@dataclass(frozen=True)
class Patience:
    """How often in a row there was something to complain about."""

    raised: int = 0

    def after(self, found: str) -> "Patience":
        """One look later."""
        return Patience(self.raised + 1 if found else 0)

    def over(self, bounds: Bounds) -> bool:
        """Is it time to act?"""
        return self.raised >= bounds.patience
