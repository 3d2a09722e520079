"""Histograms of latency in fixed bins, four to each doubling, so that those of any device and time add up exactly.

A quantile that is read from one is the upper end of its bin: at most 19 % above the true one, whatever the scale
(logarithmic bins as in DDSketch: Masson, Rim, Lee, VLDB 2019).
"""

import numpy as np
from numpy.typing import NDArray

EDGES_S = 1e-5 * 2 ** (np.arange(4 * 24 + 1) / 4)  # seconds: from 10 µs to 168 s; a bin below and one above
BINS = len(EDGES_S) + 1


def count(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of these times fall in each of the ``BINS`` bins; bin i is from EDGES_S[i-1] to below EDGES_S[i]."""
    return np.bincount(np.searchsorted(EDGES_S, seconds, side="right"), minlength=BINS).astype(np.int64)


def quantile_s(counts: NDArray[np.int64], q: float) -> float:
    """Seconds within which the share ``q`` of what was counted came, the last edge at most; 0 where nothing was."""
    if not counts.sum():
        return 0.0
    place = int(np.searchsorted(counts.cumsum(), q * counts.sum()))
    return float(EDGES_S[min(place, len(EDGES_S) - 1)])
