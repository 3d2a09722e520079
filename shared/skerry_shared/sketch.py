"""What is watched about a model's traffic: channels, and counts of their values in fixed bins.

Every model answers with ``scores`` (float32, batch × labels, probabilities) and ``monitors`` (float32, batch × M: what
the workload watches about its inputs, computed in the graph). The channels are the M monitors, then ``predicted class``
and ``confidence``. Bins are fixed by the reference data and ship with the bundle, so counts from any device, process
and time add up exactly. A channel with K-1 edges has K bins, and one more for values that are missing (NaN).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skerry_shared.release import Channel

BINS = 16  # per channel, at the reference's quantiles; see docs/architecture.md

Floats = NDArray[np.floating]


def channel_names(monitors: Sequence[str]) -> tuple[str, ...]:
    """The channels of a model whose workload names these monitors."""
    return (*monitors, "predicted class", "confidence")


def channel_values(scores: Floats, monitors: Floats) -> Floats:
    """Values of all channels: float64, batch × (M + 2), from scores (batch × labels) and monitors (batch × M)."""
    top = np.stack([scores.argmax(axis=1), scores.max(axis=1)], axis=1)
    return np.concatenate([monitors.astype(np.float64), top.astype(np.float64)], axis=1)


def baseline(names: Sequence[str], values: Floats, labels: int) -> tuple[Channel, ...]:
    """Reference channels from reference values (n × channels): a bin per class, and quantile bins for the others."""
    return tuple(_channel(name, values[:, i], labels) for i, name in enumerate(names))


def recount(channels: Sequence[Channel], values: Floats) -> tuple[Channel, ...]:
    """The same channels with the counts of other values (n × channels)."""
    return tuple(
        replace(channel, counts=tuple(map(int, count(values[:, i], channel.edges))))
        for i, channel in enumerate(channels)
    )


def count(values: Floats, edges: Sequence[float] | Floats) -> NDArray[np.int64]:
    """How many values fall in each bin: int64, len(edges) + 2 entries, the last one for NaN."""
    bins = np.searchsorted(np.asarray(edges), values, side="right")
    bins[np.isnan(values)] = len(edges) + 1
    return np.bincount(bins, minlength=len(edges) + 2)


def _channel(name: str, values: Floats, labels: int) -> Channel:
    if name == "predicted class":
        edges = np.arange(1, labels) - 0.5
    else:
        edges = np.unique(np.nanquantile(values, np.arange(1, BINS) / BINS))
    return Channel(name, tuple(map(float, edges)), tuple(map(int, count(values, edges))))
