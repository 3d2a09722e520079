"""A new reference for a place whose traffic changed for good: what its devices sent while somebody looked."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.drift.traffic import Window
from skerry_shared.errors import InputError
from skerry_shared.release import Channel

LEAST = 500  # values of each channel; fewer make tests so careful that they see little

Bins = tuple[str, tuple[float, ...], int]  # a channel's name, edges, and number of bins


def rebased(normal: Mapping[str, Sequence[Channel]], windows: Iterable[Window]) -> tuple[Channel, ...]:
    """The channels of ``normal`` (by device) with the counts of these windows; devices with the same bins share one.

    Raises InputError that names a channel with too few values.
    """
    channels = {device: {channel.name: channel for channel in found} for device, found in normal.items()}
    sums: defaultdict[Bins, NDArray[np.int64]] = defaultdict(lambda: np.zeros(1, np.int64))
    for window in windows:
        channel = channels.get(window.device, {}).get(window.channel)
        if channel and len(window.counts) == len(channel.counts):
            sums[_bins(channel)] = sums[_bins(channel)] + window.counts
    wanted = {_bins(channel): channel for found in normal.values() for channel in found}
    for bins, channel in wanted.items():
        if (size := int(sums[bins].sum())) < LEAST:
            raise InputError(
                f"{channel.name}: {size} values since then, {LEAST} are needed; look further back, or wait"
            )
    return tuple(replace(channel, counts=tuple(map(int, sums[bins]))) for bins, channel in wanted.items())


def applied(normal: Sequence[Channel], new: Iterable[Channel]) -> tuple[Channel, ...]:
    """``normal`` with those of ``new`` that have the same bins in its place."""
    found = {_bins(channel): channel for channel in new}
    return tuple(found.get(_bins(channel), channel) for channel in normal)


def _bins(channel: Channel) -> Bins:
    return channel.name, tuple(channel.edges), len(channel.counts)
