"""What a channel's distribution may change to: alternatives to the reference, and what a window says for each.

The reference gives the probability p of each bin. Against it stands a mixture of alternatives q: exponential tilts of p
(location, scale, skew), a part of the traffic that moves, fatter tails, a spike in each bin, a sensor's limit, bias or
gain, each in a few sizes. The evidence of a window for q is
L = Π (q/p)^counts, an e-value: its mean is 1 at most while nothing changed. Two corrections keep that true in practice.

*Tolerance.* No device is exactly like the reference. Whatever replaces a share ε of the traffic or less is inside the
null hypothesis, {r : r ≥ (1-ε)p}, and p is replaced by the member of it that is nearest to q, p* = max((1-ε)p, q/c)
with c such that it sums to 1: the reverse information projection, for which q/p* has mean 1 at most under each member
(Grünwald, de Heide, Koolen: Safe testing, arXiv:1906.07801; for ε-contamination it is Huber's clipped ratio, 1965).

*Finite reference.* p is an estimate from n_ref values. The mean of q/p* errs by a standard deviation of
sqrt(chi2/n_ref), with chi2 the variance of q/p* under p, so each value is charged d = log(1 + c·sqrt(chi2/n_ref)),
without which small references alarm by themselves. c is 2 for large references and more for small ones, where some of
the many alternatives err by more. That is what a pool pays, for its members need not share one reference.

A device pays half of d for each value, and of the other half what chance explains: the n values since a change are
held against all that is known. Given the M values of reference and stream together they are a draw without replacement
if nothing changed, over which exp(sum of log q/p*) has a mean to be divided by. With m the mean of q/p* over all M (for
the reference's own it is taken as 1, the most that is tolerated) and T the sum of log q/p*, its log is
n·log m - (n/M)²·(M·log m - T): exact for n = 0 and, without a tolerance, n = M; to second order in log q/p* between. It
is also what remains of L if p has Jeffreys' prior and is integrated out, so what a device is promised holds on average
over the p that its reference leaves open. An error of the reference, which all of the stream shows, is no evidence
then, and what the stream has shown before a change makes up for a small reference. A change that was there from the
first value on pays all of d.

Arrays are float64; ``...`` stands for any leading shape (rows of a bank), K for bins, J for alternatives.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from skerry_shared.release import Channel
from skerry_shared.sketch import CLASS

Floats = NDArray[np.float64]

LOCATIONS = (0.1, 0.25, 0.4, 0.6, 1.0)  # in deviations of the reference; small ones are for pools of many devices
SCALES = (-0.4, -0.15, 0.15, 0.4)  # of z² in the exponent; negative is narrower
SKEWS = (0.25,)  # of (z³ - 3z)/√6
TAILS = (0.05, 0.2)  # share of the traffic that moves to the first and last bin
SPIKES = (0.05, 0.1, 0.2)  # share of the traffic that moves to one bin
GAINS = (0.8, 1.25)  # factors of values
PARTS, PART_LOCATIONS = (0.1, 0.25), (1.5, 2.5)  # a share of the traffic moves by so many deviations, the rest stays
REMAINS = 0.02  # share of the reference in those, so that no bin is empty
RARER = 0.3  # what is left of one bin
LIMIT = 0.97  # share of what lies beyond a sensor's limit that is heaped there

AT_ONCE = 0.5  # of d, that a device pays for each value, whatever chance explains
NEVER_SEEN = 0.5  # values that a bin has more than were counted (Jeffreys' prior)

Alternative = tuple[str, int, Floats]  # word, bin of a spike or -1, q


@dataclass(frozen=True)
class Tilts:
    """The alternatives of one channel. ``words[j]`` says what j means; ``bins[j]`` is the bin of a spike, else -1."""

    words: tuple[str, ...]
    bins: NDArray[np.int64]
    log_ratios: Floats  # J × K: log(q/p*), charged with d
    charges: Floats  # J: d
    log_weights: Floats  # J: of the mixture; each kind of change has the same share
    reference: Floats  # K: the reference's counts, with the little that bins have that were never seen

    @classmethod
    def of(cls, reference: Channel, tolerance: float = 0.0) -> "Tilts":
        """``tolerance``: ε, 0 to 1."""
        p, size = smooth(reference.counts), max(sum(reference.counts), 1)
        known = np.asarray(reference.counts, np.float64) + NEVER_SEEN
        families = _families(reference, p, len(reference.edges) + 1)
        found = [(alternative, math.log(len(families) * len(family))) for family in families for alternative in family]
        q = np.array([alternative for (_, _, alternative), _ in found])
        ratios = q / np.array([nearest(p, row, tolerance) for row in q])
        chi2 = np.maximum(ratios**2 @ p - (ratios @ p) ** 2, 0.0)
        charges = np.log1p(_deviations(size) * np.sqrt(chi2 / size))
        words, bins = tuple(word for (word, _, _), _ in found), np.array([spike for (_, spike, _), _ in found])
        weights = -np.array([weight for _, weight in found])
        return cls(words, bins, np.log(ratios) - charges[:, None], charges, weights, known)

    def log_likelihoods(self, counts: NDArray[np.integer]) -> Floats:
        """(..., K) counts of a window → (..., J) log L, charged."""
        likelihoods: Floats = counts @ self.log_ratios.T
        return likelihoods

    @cached_property
    def refund(self) -> Floats:
        """J: what a device does not pay for each value."""
        refund: Floats = (1 - AT_ONCE) * self.charges
        return refund

    def by_chance(self, total: NDArray[np.integer], fresh: Floats) -> Floats:
        """(..., K) counts of a stream, (..., J) how many of its values are since the change → (..., J) what a device
        pays instead of the refund."""
        together = total + self.reference
        size = together.sum(axis=-1)[..., None]
        excess, logs = self._uncharged
        mean = np.log1p((total / size) @ excess)
        explained = (together / size) @ logs - mean
        explained *= fresh / size
        explained += mean
        paid: Floats = np.clip(explained, 0.0, self.refund, out=explained)
        paid *= fresh
        return paid

    @cached_property
    def _uncharged(self) -> tuple[Floats, Floats]:
        """q/p* - 1 and log(q/p*), K × J."""
        logs = (self.log_ratios + self.charges[:, None]).T
        return np.expm1(logs), logs


def smooth(counts: Sequence[int] | NDArray[np.integer]) -> Floats:
    """Probabilities from counts; a bin never seen has a little."""
    pseudo = np.asarray(counts, np.float64) + NEVER_SEEN
    probabilities: Floats = pseudo / pseudo.sum()
    return probabilities


def nearest(p: Floats, q: Floats, tolerance: float) -> Floats:
    """max((1-ε)p, q/c) that sums to 1: of all that p becomes when a share ε is replaced, the nearest to q."""
    if not tolerance:
        return p
    floor = (1 - tolerance) * p
    order = np.argsort(floor / q)  # bins where q/c is the larger come first
    shares, floors = np.cumsum(q[order]), floor.sum() - np.cumsum(floor[order])
    c = shares / (1 - floors)  # if the first 1, 2, … bins are those
    place = int(np.argmax(np.append((q / floor)[order][1:] <= c[:-1], True)))
    projected: Floats = np.maximum(floor, q / c[place])
    return projected


def normal_scores(reference: Channel) -> Floats:
    """The normal quantile of each bin's middle rank, K; 0 for bins at the side, which are no values."""
    return _normal_scores(smooth(reference.counts), len(reference.edges) + 1)


def converted(channel: Channel, factor: float, offset: float) -> Floats:
    """Shares of the bins (K) if the reference's values had been multiplied by ``factor`` and ``offset`` been added."""
    p, edges = smooth(channel.counts), np.asarray(channel.edges)
    values = len(edges) + 1
    if len(edges) < 2:
        return p
    inside = np.concatenate([[0.0], np.cumsum(p[1 : values - 1])])
    below = p[0] + np.interp((edges - offset) / factor, edges, inside)
    total = p[:values].sum()
    cumulative = np.concatenate([[0.0], below if factor > 0 else total - below, [total]])
    return np.concatenate([np.maximum(np.diff(cumulative), 0.0), p[values:]])


def _deviations(size: int) -> float:
    """c of the charge, for a reference of this many values."""
    return 2 + 10 / math.sqrt(size)


def _normal_scores(p: Floats, values: int) -> Floats:
    shares = p[:values] / p[:values].sum()
    middles = np.cumsum(shares) - shares / 2
    scores = np.zeros_like(p)
    scores[:values] = [NormalDist().inv_cdf(middle) for middle in middles]
    return scores


def _families(reference: Channel, p: Floats, values: int) -> list[list[Alternative]]:
    """In each kind of change the alternatives of it; values without an order only become more often, or less."""
    if reference.name == CLASS:
        return [list(_spikes(p, values)), list(_rarer(p, values))]
    z = _normal_scores(p, values)
    skew = (z**3 - 3 * z) / math.sqrt(6)
    location = [(word, -1, _tilt(p, sign * size * z, values)) for size in LOCATIONS for word, sign in SIGNS]
    scale = [("wider" if size > 0 else "narrower", -1, _tilt(p, size * z**2, values)) for size in SCALES]
    skewed = [("skewed", -1, _tilt(p, sign * size * skew, values)) for size in SKEWS for _, sign in SIGNS]
    parts = [
        (f"in part {word}", -1, _mix(p, _tilt(p, sign * size * z, values), share))
        for share in PARTS for size in PART_LOCATIONS for word, sign in SIGNS
    ]  # fmt: skip
    tails = [("more extreme", -1, _mix(p, _extremes(p, values), share)) for share in TAILS]
    families = [
        location, scale, skewed + tails, parts, list(_spikes(p, values)), list(_limits(p, values)),
        list(_miscalibrated(reference, p, values)),
    ]  # fmt: skip
    return [family for family in families if family]


SIGNS = (("higher", 1), ("lower", -1))


def _spikes(p: Floats, values: int) -> Iterator[Alternative]:
    sides = ("repeated", "missing")[-(len(p) - values) :]
    for spike, corner in enumerate(np.eye(len(p))):
        word = "more often" if spike < values else sides[spike - values]
        for share in SPIKES:
            yield word, spike, _mix(p, corner, share)


def _rarer(p: Floats, values: int) -> Iterator[Alternative]:
    for place, corner in enumerate(np.eye(len(p))[:values]):
        rest = (1 - corner) * p
        left = RARER * p[place] * corner
        yield "less often", place, left + rest * ((1 - left.sum()) / rest.sum())


def _miscalibrated(reference: Channel, p: Floats, values: int) -> Iterator[Alternative]:
    """A sensor with a bias or a false gain: what a tilt of ranks tells late where values are skewed."""
    if values < 4:
        return
    middle = np.interp([0.16, 0.84], np.cumsum(p[: values - 1]) / p[:values].sum(), reference.edges)
    for size in LOCATIONS:
        for word, sign in SIGNS:
            yield word, -1, _mix(converted(reference, 1.0, sign * size * (middle[1] - middle[0]) / 2), p, REMAINS)
    for gain in GAINS:
        word = "scaled up" if gain > 1 else "scaled down"
        yield word, -1, _mix(converted(reference, gain, 0.0), p, REMAINS)


def _limits(p: Floats, values: int) -> Iterator[Alternative]:
    """A limit in each bin that has half of the values beyond it at most, from above and from below."""
    places, shares = np.arange(len(p)), p[:values] / p[:values].sum()
    for place in range(1, values - 1):
        for word, beyond in (("limited above", places > place), ("limited below", places < place)):
            beyond &= places < values
            if 0 < shares[beyond[:values]].sum() <= 0.5:
                moved = LIMIT * p * beyond
                heap = moved.sum()
                held = heap + p[place] / 2  # the limit is somewhere in the bin
                again = held**2 if len(p) - values == 2 else 0.0  # two in a row at the limit are the same value
                yield word, place, p - moved + (heap - again) * (places == place) + again * (places == values)


def _tilt(p: Floats, exponent: Floats, values: int) -> Floats:
    """p · exp(exponent), normalised over the bins of values; the others stay."""
    tilted = p[:values] * np.exp(exponent[:values])
    whole: Floats = np.append(tilted * (p[:values].sum() / tilted.sum()), p[values:])
    return whole


def _extremes(p: Floats, values: int) -> Floats:
    ends = np.zeros_like(p)
    ends[0] += 0.5
    ends[values - 1] += 0.5
    return ends


def _mix(p: Floats, other: Floats, share: float) -> Floats:
    mixed: Floats = (1 - share) * p + share * other
    return mixed
