"""How often is a model right now? An interval from labels that may be looked at after each one, and a guess without.

Drift is not harm: a model may be as good on what changed, or better. So before a retraining, labels of the cohort that
drifted have to prove that it lost accuracy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry_shared.release import Channel

Floats = NDArray[np.float64]
Outcomes = Sequence[bool] | NDArray[np.bool_]
Chances = Sequence[float] | Floats

GRID = np.linspace(0, 1, 201)  # accuracies that are tested
CHUNK = 256  # labels at a time
BETS = np.array([0.05, 0.1, 0.2, 0.4, 0.8])  # shares of the wealth that are betted
Z95 = 1.96


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with an interval, 0 to 1; ``size`` answers tell it."""

    value: float
    low: float
    high: float
    size: int


def proven(right: Outcomes, probabilities: Chances, audits: Chances, alpha: float) -> Accuracy:
    """The accuracy over all answers, from sampled ones in the order of their labels.

    ``probabilities`` (0 to 1) of inclusion weigh each answer by their inverse (the mean of Hájek, 1971). With
    probability ``1 - alpha`` the interval holds at every number of labels at once, so it may be looked at when one
    comes (Waudby-Smith, Ramdas: Estimating means of bounded random variables by betting, arXiv:2010.09686; bets of
    fixed sizes; weighted as in Waudby-Smith, Wu, Ramdas, Karampatziakis, Mineiro: Anytime-valid off-policy inference
    for contextual bandits, arXiv:2210.10768). A weight may be 1 at most, so all are scaled by the least of the
    ``audits``, below which no probability was at its time. These hang on traffic and budget. The least probability that
    was drawn hangs on the strata as well, which differ in accuracy: scaled by it the first labels would count too much.
    """
    outcomes = np.asarray(right, np.float64)
    if not len(outcomes):
        return Accuracy(math.nan, 0.0, 1.0, 0)
    weights = np.min(audits) / np.asarray(probabilities, np.float64)
    mean = float(outcomes @ weights / weights.sum())
    high = _bound(outcomes, weights, alpha / 2)
    low = 1 - _bound(1 - outcomes, weights, alpha / 2)
    return Accuracy(mean, min(low, mean), max(high, mean), len(outcomes))


def guessed(reference: float, usual: Channel, confidences: Floats, probabilities: Floats) -> Accuracy:
    """Without labels: the reference accuracy (0 to 1) less what the mean confidence fell by (Guillory et al.:
    Predicting with confidence on unseen distributions, arXiv:2107.03315).

    ``usual`` is the channel "confidence" of healthy traffic. ``probabilities`` (0 to 1) of inclusion weigh each sample
    by their inverse; the variance of such a mean is that of Särndal, Swensson, Wretman: Model Assisted Survey Sampling,
    1992, section 5.7, for an endless population. The 95 % interval covers sampling only: a model that is wrong and
    sure of it is not seen.
    """
    if not len(confidences):
        return Accuracy(math.nan, 0.0, 1.0, 0)
    mean, variance, size = _moments(usual)
    shares = 1 / probabilities / (1 / probabilities).sum()
    now = float(shares @ confidences)
    value = min(max(reference + now - mean, 0.0), 1.0)
    error = Z95 * math.sqrt(float(shares**2 @ (confidences - now) ** 2) + variance / size)
    return Accuracy(value, max(value - error, 0.0), min(value + error, 1.0), len(confidences))


def _bound(outcomes: Floats, weights: Floats, alpha: float) -> float:
    """The largest accuracy that is not refuted: betting that it is lower never made 1/alpha of a wealth of 1."""
    stakes = BETS / np.maximum(1 - GRID, 1e-3)[:, None]  # G × B: a right answer costs this share of the wealth at most
    wealth, most = np.zeros(stakes.shape), np.full(len(GRID), -np.inf)
    for first in range(0, len(outcomes), CHUNK):
        outcome, weight = (part[first : first + CHUNK, None, None] for part in (outcomes, weights))
        gains = np.log1p(np.maximum(stakes * weight * (GRID[:, None] - outcome), -1 + 1e-9))
        course = wealth + np.cumsum(gains, axis=0)
        most = np.maximum(most, (np.logaddexp.reduce(course, axis=2) - math.log(len(BETS))).max(axis=0))
        wealth = course[-1]
    return float(GRID[most < math.log(1 / alpha)].max(initial=0.0))


def _moments(channel: Channel) -> tuple[float, float, int]:
    """Mean, variance and number of the values that a channel counts, each taken for the middle of its bin."""
    edges, values = np.asarray(channel.edges), np.asarray(channel.counts[: len(channel.edges) + 1], np.float64)
    middles = np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])
    size = max(int(values.sum()), 1)
    mean = float(values @ middles / size)
    return mean, float(values @ (middles - mean) ** 2 / size), size
