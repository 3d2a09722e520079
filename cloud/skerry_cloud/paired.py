"""Two models that answered the same examples: which is better, and how sure is that?

Only those examples count on which exactly one of them is right: ``won`` by the candidate, ``lost`` by it.

- Better: the exact one-sided McNemar test. Were both equally good, ``won`` of ``won + lost`` would be a fair coin's
  throws. McNemar, Psychometrika 12 (1947); recommended for this by Dietterich, Neural Computation 10 (1998).
- No worse: the upper confidence bound of the loss, for matched proportions with half an observation added to each cell.
  Agresti and Min, Statistics in Medicine 24 (2005).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from skerry_shared.errors import InputError


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


def answered(labels: NDArray[np.int64], champion: NDArray[np.float32], candidate: NDArray[np.float32]) -> Answered:
    """From both models' scores (n × labels) and the true labels. Raises InputError if there are no examples."""
    if not len(labels):
        raise InputError("compare: labels: no held-out examples to compare the models on")
    return Answered(champion.argmax(axis=1) == labels, candidate.argmax(axis=1) == labels)


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
