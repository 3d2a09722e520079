"""Whether a retrained candidate may replace the champion: it must be better on recent data and no worse on the old.

Both models answer the same held-out examples, so only those count on which exactly one of them is right: ``won`` by the
candidate, ``lost`` by it.

- Better: the exact one-sided McNemar test. Were both equally good, ``won`` of ``won + lost`` would be a fair coin's
  throws. McNemar, Psychometrika 12 (1947); recommended for this by Dietterich, Neural Computation 10 (1998).
- No worse: the upper confidence bound of the loss, for matched proportions with half an observation added to each cell,
  must be within the margin. Agresti and Min, Statistics in Medicine 24 (2005).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from skerry_shared.errors import InputError


@dataclass(frozen=True)
class Gate:
    """What a candidate must show: to lose less than ``max_loss`` points of accuracy on reference data, and to gain.

    ``alpha`` is the chance of passing one that is not better, and of passing one that loses as much as ``max_loss``.
    """

    max_loss: float
    alpha: float = 0.05


@dataclass(frozen=True)
class Answered:
    """Held-out examples that both models answered: right answers as masks of the same length."""

    champion: NDArray[np.bool_]
    candidate: NDArray[np.bool_]

    @property
    def won(self) -> int:
        """Examples that only the candidate has right."""
        return int((self.candidate & ~self.champion).sum())

    @property
    def lost(self) -> int:
        """Examples that only the champion has right."""
        return int((self.champion & ~self.candidate).sum())


@dataclass(frozen=True)
class Figures:
    """Numbers of examples, shares of right answers; ``loss`` on reference data and its upper bound, in points."""

    recent: int
    champion_recent: float
    candidate_recent: float
    p_better: float
    reference: int
    champion_reference: float
    candidate_reference: float
    loss: float
    loss_bound: float


@dataclass(frozen=True)
class Verdict:
    """The decision, why in one line, and the figures that it rests on."""

    passed: bool
    reason: str
    figures: Figures


def answered(labels: NDArray[np.int64], champion: NDArray[np.float32], candidate: NDArray[np.float32]) -> Answered:
    """From both models' scores (n × labels) and the true labels. Raises InputError if there are no examples."""
    if not len(labels):
        raise InputError("compare: labels: no held-out examples to compare the models on")
    return Answered(champion.argmax(axis=1) == labels, candidate.argmax(axis=1) == labels)


def compare(recent: Answered, reference: Answered, gate: Gate) -> Verdict:
    """Judge the candidate by recent and by reference held-out examples."""
    figures = Figures(
        recent=len(recent.champion),
        champion_recent=float(recent.champion.mean()),
        candidate_recent=float(recent.candidate.mean()),
        p_better=p_better(recent.won, recent.lost),
        reference=len(reference.champion),
        champion_reference=float(reference.champion.mean()),
        candidate_reference=float(reference.candidate.mean()),
        loss=(reference.lost - reference.won) / len(reference.champion) * 100,
        loss_bound=loss_bound(reference.won, reference.lost, len(reference.champion), gate.alpha) * 100,
    )
    if figures.p_better > gate.alpha:
        return Verdict(False, f"not shown to be better on recent data: {_recent(figures)}", figures)
    if figures.loss_bound > gate.max_loss:
        return Verdict(False, f"may lose more than {gate.max_loss:g} points on old data: {_old(figures)}", figures)
    return Verdict(True, f"better on recent data: {_recent(figures)}; holds on old data: {_old(figures)}", figures)


def p_better(won: int, lost: int) -> float:
    """Chance of at least ``won`` heads in ``won + lost`` throws of a fair coin, exactly.

    >>> p_better(9, 1)
    0.0107421875
    """
    throws = won + lost
    heads_or_more = sum(math.comb(throws, heads) for heads in range(won, throws + 1))
    return heads_or_more / (1 << throws)  # integers of any size: exact, and rounded once


def loss_bound(won: int, lost: int, examples: int, alpha: float) -> float:
    """Upper bound, at confidence 1 - alpha, of the share of answers by which the candidate is worse.

    >>> round(loss_bound(40, 50, 1000, 0.05), 4)
    0.0256
    """
    size = examples + 2
    won_share, lost_share = (won + 0.5) / size, (lost + 0.5) / size
    loss = lost_share - won_share
    deviation = math.sqrt((won_share + lost_share - loss**2) / size)
    return loss + NormalDist().inv_cdf(1 - alpha) * deviation


def _recent(figures: Figures) -> str:
    shares = f"{figures.candidate_recent:.3f} against {figures.champion_recent:.3f}"
    return f"{shares} of {figures.recent}, p = {figures.p_better:.2g}"


def _old(figures: Figures) -> str:
    shares = f"{figures.candidate_reference:.3f} against {figures.champion_reference:.3f}"
    return f"{shares} of {figures.reference}, loss at most {figures.loss_bound:.2f} points"
