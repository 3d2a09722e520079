"""What is watched about a model's traffic: channels, and counts of their values in fixed bins.

Every model answers with ``scores`` (float32, batch × labels, probabilities) and ``monitors`` (float32, batch × M: what
the workload watches about its inputs, computed in the graph). The channels are the M monitors, then ``predicted class``
and ``confidence``. Bins are fixed by the reference data and ship with the bundle, so counts from any device, process
and time add up exactly. Bins of values are cut at the reference's quantiles, with one below all that it holds and one
above. Beside them are one for a value that is exactly the one before, which tells a stuck sensor, and one for NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skerry_shared.release import Channel

BINS = 16  # per channel, at the reference's quantiles; see docs/decisions/0008-drift-tests.md
REPEATS = 0.01  # share of the reference that may repeat the value before, where a repeated value means something
CLASS, CONFIDENCE = ANSWERS = ("predicted class", "confidence")  # the channels that are not about inputs

Floats = NDArray[np.floating]


def channel_names(monitors: Sequence[str]) -> tuple[str, ...]:
    """The channels of a model whose workload names these monitors."""
    return (*monitors, *ANSWERS)


def channel_values(scores: Floats, monitors: Floats) -> Floats:
    """Values of all channels: float64, batch × (M + 2), from scores (batch × labels) and monitors (batch × M)."""
    top = scores.argmax(axis=1)[:, None]
    confidence = np.take_along_axis(scores, top, axis=1)  # a quarter of the time that max takes
    return np.concatenate([monitors, top, confidence], axis=1, dtype=np.float64)


def baseline(names: Sequence[str], values: Floats, labels: int) -> tuple[Channel, ...]:
    """Reference channels from reference values (n × channels): a bin per class, and quantile bins for the others."""
    return tuple(_channel(name, values[:, i], labels) for i, name in enumerate(names))


def recount(channels: Sequence[Channel], values: Floats) -> tuple[Channel, ...]:
    """The same channels with the counts of other values (n × channels)."""
    return tuple(
        replace(channel, counts=tuple(map(int, count(channel, values[:, i])))) for i, channel in enumerate(channels)
    )


def residual(name: str, series: Floats) -> Channel:
    """A channel of what the value before does not foretell, from values in the order of time (n)."""
    lag = autocorrelation(series)
    return _quantiles(name, series, _residuals(series, math.nan, lag), lag)


def autocorrelation(series: Floats) -> float:
    """Of lag 1, over neighbours that are both finite; 0 where nothing varies."""
    both = np.isfinite(series[1:]) & np.isfinite(series[:-1])
    if both.sum() < 3 or not (series[1:][both].std() and series[:-1][both].std()):
        return 0.0
    return float(np.corrcoef(series[1:][both], series[:-1][both])[0, 1])


def count(channel: Channel, values: Floats, before: float = math.nan) -> NDArray[np.int64]:
    """How many values (n, in order) fall in each bin of the channel; ``before`` is the one before the first, if known.

    With a lag, a value whose predecessor is not known is not counted.
    """
    edges = np.asarray(channel.edges)
    counted = _residuals(values, before, channel.lag) if channel.lag else values
    bins = np.searchsorted(edges, counted, side="right")
    if channel.repeats:
        bins[values == _shifted(values, before)] = len(edges) + 1
    missing = np.isnan(values)
    bins[missing] = len(channel.counts) - 1
    if channel.lag:
        bins = bins[missing | ~np.isnan(counted)]
    return np.bincount(bins, minlength=len(channel.counts))


def _channel(name: str, values: Floats, labels: int) -> Channel:
    if name != CLASS:
        return _quantiles(name, values, values)
    edges = tuple(map(float, np.arange(1, labels) - 0.5))
    return _counted(Channel(name, edges, (0,) * (labels + 1)), values)


def _quantiles(name: str, values: Floats, cut_at: Floats, lag: float = 0.0) -> Channel:
    """Bins at the quantiles of ``cut_at``, which is what the channel counts of ``values``."""
    found = cut_at[np.isfinite(cut_at)]
    edges = _edges(found) if len(found) else ()
    repeats = len(values) > 1 and (values[1:] == values[:-1]).mean() <= REPEATS
    return _counted(Channel(name, edges, (0,) * (len(edges) + 2 + bool(repeats)), lag), values)


def _edges(values: Floats) -> tuple[float, ...]:
    """Around all of the values, and at their quantiles."""
    ends = values.min(), np.nextafter(values.max(), np.inf)
    return tuple(map(float, np.unique([*np.quantile(values, np.arange(1, BINS) / BINS), *ends])))


def _counted(channel: Channel, values: Floats) -> Channel:
    return recount([channel], values[:, None])[0]


def _residuals(values: Floats, before: float, lag: float) -> Floats:
    return values - lag * _shifted(values, before)


def _shifted(values: Floats, before: float) -> Floats:
    return np.concatenate([[before], values[:-1]])[: len(values)]
