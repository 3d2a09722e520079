"""Is it the data that broke, not the world that changed? By the signature of a channel's counts since the change.

Each fault leaves another: missing values fill the last bin, a stuck sensor that of repeated values; a sensor that meets
its limit heaps what lay beyond in one bin and leaves the rest. What none of these explains is taken for a change of the
world, another unit too: bins that are cut at the reference's quantiles do not tell it from one.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.drift.tilts import Floats, smooth
from skerry_shared.release import Channel

Counts = NDArray[np.int64]

MISSING = 0.02  # share of values
STUCK = 0.5  # share of values that repeat the one before, above which they cannot be a sensor's at its limit
ONE_BIN = 0.95  # … that are in one bin
REPEATED = 0.05  # … that repeat the one before, which is too many
BEYOND = 5.0  # values that would lie beyond a limit, at least, before it is called one
MOST = 0.9  # share of the reference that may
LEFT = 0.1  # of what would lie there that still may
SIGMAS = 3.0
NEAR = 0.08  # total variation distance that still is the same distribution
ENOUGH = 30  # values, to call a bin heaped


def fault(channel: Channel, recent: Counts) -> str:
    """The fault that these counts show, for people, or "" if they show none."""
    signs: tuple[Callable[[Channel, Counts], str], ...] = (_missing, _stuck, _saturated, _repeating)
    return next((found for sign in signs if (found := sign(channel, recent))), "") if recent.sum() else ""


def _missing(channel: Channel, recent: Counts) -> str:
    share, usual = recent[-1] / recent.sum(), smooth(channel.counts)[-1]
    spread = SIGMAS * math.sqrt(usual / recent.sum())
    return f"{share:.0%} missing" if share > usual + max(MISSING, spread) else ""


def _stuck(channel: Channel, recent: Counts) -> str:
    if channel.repeats:
        return _repeating(channel, recent, STUCK)
    values, usual = recent[:-1], smooth(channel.counts)[:-1]
    heaped = recent.sum() >= ENOUGH and values.max() >= ONE_BIN * recent.sum()
    return "stuck: values stay in one bin" if heaped and usual[values.argmax()] < ONE_BIN / 2 else ""


def _repeating(channel: Channel, recent: Counts, share: float = REPEATED) -> str:
    found = recent[-2] / recent.sum() if channel.repeats and recent[-2] > 1 else 0.0
    return f"stuck: {found:.0%} repeat the value before" if found >= share else ""


def _saturated(channel: Channel, recent: Counts) -> str:
    """Looks for a limit from above, then mirrored for one from below. A limit's values may repeat each other."""
    values = len(channel.edges) + 1
    repeated = recent[-2] if channel.repeats else 0
    usual = smooth(channel.counts)[:values]
    for side, step in (("above", 1), ("below", -1)):
        place = _limit(usual[::step] / usual.sum(), recent[:values][::step], repeated)
        if place >= 0:
            edge = channel.edges[place] if step == 1 else channel.edges[values - 2 - place]
            return f"saturated: nothing {side} {edge:.4g}, and many values just there"
    return ""


def _limit(usual: Floats, recent: Counts, repeated: int) -> int:
    """The bin that holds all that should lie in it or above, while those below are as ever; -1 if none does."""
    size, places = recent.sum() + repeated, np.arange(len(usual))
    for place in range(1, len(usual) - 1):
        beyond = usual[place + 1 :].sum()
        now = (recent + repeated * (places == place)) / size
        expected = usual * (places <= place) + beyond * (places == place)
        cut = beyond * size >= BEYOND and beyond <= MOST and now[place + 1 :].sum() <= LEFT * beyond
        if cut and _fits(now, expected, size):
            return place
    return -1


def _fits(now: Floats, expected: Floats, size: int) -> bool:
    noise = float(np.sqrt(expected * (1 - expected) / (2 * math.pi * size)).sum())
    return float(np.abs(now - expected).sum() / 2) <= NEAR + noise
