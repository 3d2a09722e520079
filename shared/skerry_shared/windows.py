"""The counts of one window on the wire: as few bytes as can be had without knowing what is usual.

One after the other, of C channels: the most that a channel counted; of all channels the first bin, then the third, and
so on (bins beside each other have counts that are alike); how much less than the most each channel counted. What a
channel's second bin holds follows from these. They are unsigned integers of 1, 2, 4 or 8 bytes, little-endian, the
fewest that hold the largest; the lowest byte of all comes first, then the next one of all, and so on.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from skerry_shared.errors import InputError

MOST = 1 << 40  # that may have been counted, so that sums stay exact

Counts = NDArray[np.int64]
Places = NDArray[np.intp]


def pack(counts: Sequence[Counts]) -> bytes:
    """Counts of each channel's bins, at least two a channel, as bytes."""
    flat, (starts, order) = np.concatenate(counts), _places(tuple(map(len, counts)))
    totals = np.add.reduceat(flat, starts)
    numbers = np.concatenate([[totals.max()], flat[order], totals.max() - totals])
    width = np.min_scalar_type(int(numbers.max())).itemsize
    return numbers.astype(f"<u{width}").view(np.uint8).reshape(-1, width).T.tobytes()


def unpack(sizes: Sequence[int], packed: bytes) -> Counts:
    """Undo ``pack``: counts of all bins, channel by channel; ``sizes`` are the channels' numbers of bins.

    Raises InputError if what was packed has others, or cannot have been counted.
    """
    numbers, (starts, order) = _numbers(sum(sizes) + 1, packed), _places(tuple(sizes))
    flat = np.zeros(sum(sizes), np.int64)
    flat[order] = numbers[1 : len(order) + 1]
    flat[starts + 1] = numbers[0] - numbers[len(order) + 1 :] - np.add.reduceat(flat, starts)
    if flat.min() < 0:
        raise InputError("counts: some are below zero")
    return flat


def _numbers(count: int, packed: bytes) -> Counts:
    width, odd = divmod(len(packed), count)
    if odd or width not in (1, 2, 4, 8):
        raise InputError(f"counts: {len(packed)} bytes are not the {count} numbers that the baseline asks for")
    numbers = np.frombuffer(packed, np.uint8).reshape(width, count).T.copy().view(f"<u{width}").ravel()
    if (highest := int(numbers.max())) > MOST:
        raise InputError(f"counts: {highest} is more than {MOST}")
    return numbers.astype(np.int64)


@lru_cache(maxsize=1024)
def _places(sizes: tuple[int, ...]) -> tuple[Places, Places]:
    """Among the bins of all channels: where each channel begins, and the order on the wire, without second bins."""
    starts = np.cumsum([0, *sizes[:-1]])
    bins = np.concatenate([np.arange(size) for size in sizes])
    order = np.argsort(bins, kind="stable")
    return starts, order[bins[order] != 1]
