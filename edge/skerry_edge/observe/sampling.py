"""Which answers become samples, each with a probability that is known and never 0; pure.

Two phases (Särndal, Swensson, Wretman: Model Assisted Survey Sampling, 1992, chapter 9). ``Strata`` says how likely an
answer is to be drawn, each by itself (Poisson sampling): every one with the rate that was asked for, or less if answers
come fast (``paced``), the *audit*, and more often one that is *uncertain* or of a *rare* class. ``Budget`` says with
which probability each one drawn goes home. The product is the probability of inclusion π: a sum of value / π over the
samples estimates the sum over all answers without bias (Horvitz, Thompson 1952). What is of stratum "audit" is by
itself a random sample of all answers of its time.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skerry_shared.release import Channel
from skerry_shared.sketch import CLASS, CONFIDENCE
from skerry_shared.telemetry import AUDIT, RARE, UNCERTAIN

# How much more likely: about as the errors' standard deviations, by which Neyman (1934) divides a sample among strata.
# No more, for the least likely answer has the largest weight.
FACTORS = {AUDIT: 1.0, UNCERTAIN: 4.0, RARE: 8.0}
MOST = max(FACTORS.values())
ENOUGH = 50.0  # of the audit, a second: a proof has what it needs within seconds, and the model is not slowed
UNSURE = 0.15  # of the reference's answers, at most, are less confident than what counts as uncertain
SELDOM = 1 / 4  # of an even share: a class that is answered less often is rare
USUAL, LIVE = 1_000, 100_000  # answers that the reference's classes count as; after which counts are halved

DAY_S = 86_400.0
AT_ONCE = 1 / 4  # of a day's bytes may go in a moment; the others come in evenly
MEMORY_S = DAY_S / 8  # in which what is above the reserve would be spent; after which what was offered counts 1/e
LEAST = 0.1  # of what comes in is spent even below the reserve, so that every sample has a chance


def paced(rate: float, answers_s: float, last: float) -> float:
    """The rate at which answers are drawn that come so fast: ``rate``, halved until it draws ENOUGH a second, or fewer;
    at most twice the ``last`` one, so that what comes in bursts is not drawn as if each were the first.

    By halves, so that it seldom changes and packs well. It hangs on how many answers came, never on what they were.
    """
    excess = rate * answers_s / ENOUGH
    return min(rate * 0.5 ** math.ceil(math.log2(excess)) if excess > 1 else rate, 2 * last)


class Strata:
    """Tells one model's answers apart. Not thread-safe."""

    def __init__(self, baseline: Sequence[Channel], labels: int) -> None:
        """What is uncertain and rare is known from the reference at first."""
        usual = {channel.name: channel for channel in baseline}
        self._unsure = _unsure(usual[CONFIDENCE])
        counts = np.asarray(usual[CLASS].counts[:labels], np.float64)
        self._classes = counts * USUAL / max(counts.sum(), 1)
        self._rare = _rare(self._classes)

    def of(self, scores: NDArray[np.floating]) -> str:
        """The stratum of an answer, by one score a label."""
        top = scores.argmax()
        if self._rare[top]:
            return RARE
        return UNCERTAIN if scores.item(top) < self._unsure else AUDIT

    def saw(self, classes: NDArray[np.int64]) -> None:
        """So many more answers of each class (behind them may be other counts)."""
        self._classes += classes[: len(self._classes)]
        if self._classes.sum() > LIVE:
            self._classes /= 2
        self._rare = _rare(self._classes)


class Budget:
    """Bytes that may go, at most ``day_bytes`` in any 24 hours; a token bucket. Times in seconds. Not thread-safe.

    The lower half of the bucket is a reserve for what chance draws too much. So ``pays`` refuses next to nothing, and
    what it refuses was drawn: a bias, if a small one, that has to be counted.
    """

    def __init__(self, day_bytes: float, now: float) -> None:
        self._room, self._inflow = day_bytes * AT_ONCE, day_bytes * (1 - AT_ONCE) / DAY_S
        self._level, self._at, self._offered = self._room, now, 0.0

    def share(self, size: int, now: float) -> float:
        """The probability, above 0, with which each sample of a batch of so many bytes should go."""
        passed, self._at = now - self._at, now
        self._level = min(self._room, self._level + self._inflow * passed)
        self._offered = self._offered * math.exp(-passed / MEMORY_S) + size
        spare = max(self._level - self._room / 2, 0.0)
        return min(1.0, (spare + LEAST * self._inflow * MEMORY_S) / self._offered)

    def pays(self, size: int) -> bool:
        """Take so many bytes out of the bucket; False, and nothing is taken, if they are not in it."""
        if size > self._level:
            return False
        self._level -= size
        return True


def _unsure(confidence: Channel) -> float:
    """Below it at most the share UNSURE of the reference's answers lies."""
    below = np.cumsum(confidence.counts[: len(confidence.edges)]) / max(sum(confidence.counts), 1)
    found = int(np.searchsorted(below, UNSURE, side="right"))
    return confidence.edges[found - 1] if found else -math.inf


def _rare(counts: NDArray[np.float64]) -> list[bool]:
    found: list[bool] = (counts < SELDOM * counts.mean()).tolist()
    return found
