"""Has a channel's distribution changed? A sequential test on bin counts with a stated false-alarm rate.

The reference gives the probability p of each bin. Against it stands a mixture of alternatives q: exponential tilts of p
(location, scale), fatter tails and a spike in each bin, each in a few sizes. Each is an e-detector of Shiryaev-Roberts
type, R ← (1 + R) · L with L = Π (q/p)^counts, so that E[R after t windows] ≤ t while nothing changes: raising an alarm
at mean R ≥ A takes A windows on average, at least, without a change. Means keep this: over alternatives, over channels,
whatever their dependence (Shin, Ramdas, Rinaldo: E-detectors, arXiv:2203.03532; on multinomials: Lindon, Malek:
Anytime-valid inference for multinomial count data, arXiv:2011.03567).

p is an estimate from n_ref values, so q/p does not have mean 1 exactly: for an alternative of chi-squared distance
chi2 = Σ (q - p)²/p the error of that mean has standard deviation sqrt(chi2/n_ref). Each value is therefore charged
d = log(1 + c·sqrt(chi2/n_ref)), without which small references alarm by themselves. c is 2 for large references and
more for small ones, where some of the many alternatives err by more: with n_ref = 84, 160 values a window and A =
10,000, c = 2 lets 7 % of quiet channels alarm within 100 windows, where 1 % is stated; c = 3 lets 0.3 %.

Arrays are float64; ``...`` stands for any leading shape (streams, channels), K for bins, J for alternatives.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOCATIONS = (0.25, 0.5, 1.0)  # in standard deviations of the reference
SCALES = (-0.4, -0.15, 0.1, 0.2, 0.4)  # of z² in the exponent; negative is narrower
TAILS = (0.05, 0.2)  # share of the traffic that moves to the first and last bin
SPIKES = (0.05, 0.2, 0.5)  # share of the traffic that moves to one bin


@dataclass(frozen=True)
class Tilts:
    """The alternatives of one channel. ``words[j]`` says what j means; ``bins[j]`` is the bin of a spike, else -1."""

    words: tuple[str, ...]
    bins: NDArray[np.int64]
    log_ratios: Floats  # J × K: log(q/p)
    charges: Floats  # J: d, a value

    @classmethod
    def of(cls, reference: Sequence[int]) -> "Tilts":
        """``reference``: counts of the K bins, the last one for missing values."""
        p = smooth(reference)
        found = list(_alternatives(p))
        q = np.array([alternative for _, _, alternative in found])
        chi2, size = ((q - p) ** 2 / p).sum(axis=1), max(sum(reference), 1)
        charges = np.log1p(_deviations(size) * np.sqrt(chi2 / size))
        words, bins = tuple(word for word, _, _ in found), np.array([spike for _, spike, _ in found])
        return cls(words, bins, np.log(q / p), charges)

    def log_likelihoods(self, counts: NDArray[np.integer]) -> Floats:
        """(..., K) counts of a window → (..., J) log L, charged."""
        likelihoods: Floats = counts @ self.log_ratios.T - counts.sum(axis=-1, keepdims=True) * self.charges
        return likelihoods


def advance(log_r: Floats, log_likelihood: Floats) -> Floats:
    """One window: log of (1 + R) · L."""
    advanced: Floats = np.logaddexp(0.0, log_r) + log_likelihood
    return advanced


def log_mean(log_r: Floats) -> Floats:
    """(..., J) log R → (...) log of the mean R over the last axis."""
    highest = log_r.max(axis=-1)
    finite = np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):  # all R are 0 before the first window
        mean: Floats = finite + np.log(np.exp(log_r - finite[..., None]).mean(axis=-1))
    return mean


def smooth(counts: Sequence[int]) -> Floats:
    """Probabilities from counts; a bin never seen has a little (Jeffreys' prior)."""
    pseudo = np.asarray(counts, np.float64) + 0.5
    probabilities: Floats = pseudo / pseudo.sum()
    return probabilities


def _deviations(size: int) -> float:
    """c of the charge, for a reference of this many values."""
    return 2 + 10 / math.sqrt(size)


def _alternatives(p: Floats) -> Iterator[tuple[str, int, Floats]]:
    z = _normal_scores(p)
    for size in LOCATIONS:
        yield "higher", -1, _tilt(p, size * z)
        yield "lower", -1, _tilt(p, -size * z)
    for size in SCALES:
        yield "wider" if size > 0 else "narrower", -1, _tilt(p, size * z**2)
    extremes = _extremes(p)
    for share in TAILS:
        yield "more extreme", -1, _mix(p, extremes, share)
    for spike in range(len(p)):
        word = "missing" if spike == len(p) - 1 else "more often"
        for share in SPIKES:
            yield word, spike, _mix(p, np.eye(len(p))[spike], share)


def _normal_scores(p: Floats) -> Floats:
    """The K - 1 bins of values at the normal quantile of their middle rank; 0 for missing values."""
    values = p[:-1] / p[:-1].sum()
    middles = np.cumsum(values) - values / 2
    return np.array([*(NormalDist().inv_cdf(middle) for middle in middles), 0.0])


def _tilt(p: Floats, exponent: Floats) -> Floats:
    """p · exp(exponent), normalised over the values; as many are missing as before."""
    tilted = p[:-1] * np.exp(exponent[:-1])
    whole: Floats = np.append(tilted * (p[:-1].sum() / tilted.sum()), p[-1])
    return whole


def _extremes(p: Floats) -> Floats:
    ends = np.zeros_like(p)
    ends[0] += 0.5
    ends[-2] += 0.5
    return ends


def _mix(p: Floats, other: Floats, share: float) -> Floats:
    mixed: Floats = (1 - share) * p + share * other
    return mixed
