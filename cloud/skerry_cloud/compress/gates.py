"""Is a variant good enough to be let out? Each gate compares it with the float champion on the same held-out rows.

- accuracy, slice: the upper confidence bound of the loss (see ``paired``) must be within the budget.
- corruption: the bound of how much more the variant's accuracy falls under it than the champion's does. Row by row, the
  fall is 1, 0 or -1 for each model; the bound is that of the mean of the differences, with one row of 1 and one of -1
  added, so that few rows without a difference are not taken for certainty.
- golden, size, latency: the figure itself must be within its limit.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.compress.study import Figures, Goal, Verdict
from skerry_cloud.paired import Answered, loss_bound

ALPHA = 0.05


@dataclass(frozen=True)
class Evidence:
    """What the champion and a candidate made of the same rows.

    ``slices``: masks of ``clean``'s rows; ``corrupted``: the same rows, corrupted; ``apart``: largest difference of a
    golden score between kernels or runtimes, which must not exceed ``tolerance``. ``same``: every score is the
    champion's but for rounding, so that there is nothing to be unsure of.
    """

    same: bool
    clean: Answered
    slices: Mapping[str, NDArray[np.bool_]]
    corrupted: Mapping[str, Answered]
    apart: float
    tolerance: float


def judge(evidence: Evidence, figures: Figures, goal: Goal, alpha: float = ALPHA) -> tuple[Verdict, ...]:
    """What every gate says. Where several candidates are judged one after the other, ``alpha`` is a share of ALPHA."""
    return (
        *([_same(goal)] if evidence.same else _losses(evidence, goal, alpha)),
        _limit("golden", evidence.apart, evidence.tolerance, "largest difference of a golden answer between kernels"),
        *([] if goal.max_bytes is None else [_limit("size", figures.model_bytes, goal.max_bytes, "bytes")]),
        *([] if goal.max_latency_ms is None else [latency(figures, goal.max_latency_ms)]),
    )


def latency(figures: Figures, limit: float) -> Verdict:
    """Of what was measured here, in milliseconds."""
    return _limit("latency", figures.latency_ms, limit, "ms")


def _losses(evidence: Evidence, goal: Goal, alpha: float) -> Iterator[Verdict]:
    yield loss("accuracy", "", evidence.clean, goal.max_drop, alpha)
    for name, mask in evidence.slices.items():
        yield loss("slice", name, _part(evidence.clean, mask), goal.max_slice_drop, alpha)
    for name, corrupted in evidence.corrupted.items():
        yield fall(name, evidence.clean, corrupted, goal.max_slice_drop, alpha)


def loss(gate: str, subject: str, answered: Answered, limit: float, alpha: float) -> Verdict:
    """Of accuracy, in points, on these rows. A slice without rows fails: all 100 points may be lost there."""
    rows = len(answered.champion)
    if not rows:
        return Verdict(gate, subject, False, 0.0, 100.0, limit, 0, f"{subject}: no held-out rows of it")
    value = (answered.lost - answered.won) / rows * 100
    bound = loss_bound(answered.won, answered.lost, rows, alpha) * 100
    shares = f"{answered.candidate.mean():.4f} against float's {answered.champion.mean():.4f}"
    return _bounded(gate, subject, f"accuracy {shares}", value, bound, limit, rows, alpha)


def fall(subject: str, clean: Answered, corrupted: Answered, limit: float, alpha: float) -> Verdict:
    """How much more accuracy the candidate loses to a corruption than the champion, in points."""
    falls = _fall(clean.candidate, corrupted.candidate), _fall(clean.champion, corrupted.champion)
    extra = falls[0] - falls[1]
    padded = np.append(extra, [1.0, -1.0])
    deviation = float(padded.std()) / math.sqrt(len(padded))
    value = float(extra.mean()) * 100
    bound = (float(padded.mean()) + NormalDist().inv_cdf(1 - alpha) * deviation) * 100
    said = f"falls by {falls[0].mean() * 100:.2f} points, float by {falls[1].mean() * 100:.2f}"
    return _bounded("corruption", subject, said, value, bound, limit, len(extra), alpha)


def _fall(clean: NDArray[np.bool_], corrupted: NDArray[np.bool_]) -> NDArray[np.float64]:
    return clean.astype(np.float64) - corrupted.astype(np.float64)


def _part(answered: Answered, mask: NDArray[np.bool_]) -> Answered:
    return Answered(answered.champion[mask], answered.candidate[mask])


def _bounded(
    gate: str, subject: str, said: str, value: float, bound: float, limit: float, rows: int, alpha: float
) -> Verdict:
    sure = f"{value:+.2f} points, at most {bound:+.2f} at {1 - alpha:.2%} confidence on {rows} rows; allowed {limit:g}"
    least = loss_bound(0, 0, rows, alpha) * 100
    few = f"; so few rows cannot show less than {least:.2f}" if least > limit else ""
    reason = f"{subject or 'all rows'}: {said}: {sure}{few}"
    return Verdict(gate, subject, bound <= limit, value, bound, limit, rows, reason)


def _same(goal: Goal) -> Verdict:
    reason = "answers every test row as the float model does"
    return Verdict("accuracy", "", goal.max_drop >= 0, 0.0, 0.0, goal.max_drop, 0, reason)


def _limit(gate: str, value: float, limit: float, what: str) -> Verdict:
    return Verdict(gate, "", value <= limit, value, value, limit, 0, f"{what}: {value:.4g}, at most {limit:.4g}")
