"""Windows as the lake keeps them, a row a channel, from what devices send: the counts of all channels in one."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from skerry_cloud.ingest.lake import TYPES
from skerry_shared.errors import InputError
from skerry_shared.release import Channel
from skerry_shared.windows import Counts, unpack

Places = NDArray[np.intp]


def expand(rows: pa.Table, channels: Sequence[Mapping[tuple[str, int], Sequence[Channel]]]) -> tuple[pa.Table, Places]:
    """A row for each channel that counted something, and the place of the row that each comes from.

    ``channels``: for each row those of the models, (workload, release), that are known of its device. Raises InputError
    if a row's model is not among them, or its counts do not fit.
    """
    names, counts, sizes, places = [np.array([], str)], [np.array([], np.int64)], list[Places](), list[int]()
    told = zip(*(rows[name].to_pylist() for name in ("workload", "release", "packed")), strict=True)
    for (workload, release, packed), known in zip(told, channels, strict=True):
        found = known.get((workload, release))
        if found is None:
            raise InputError(f"windows.release: {workload}/{release} has no bundle here for this device")
        name, size, flat = _counted(found, packed)
        names.append(name)
        sizes.append(size)
        counts.append(flat)
        places.append(len(name))
    whose = np.repeat(np.arange(len(places)), places)
    lists = pa.ListArray.from_arrays(_offsets(sizes), pa.array(np.concatenate(counts)), TYPES["list<int64>"])
    rest = rows.drop_columns(["packed"]).take(pa.array(whose))
    return rest.append_column("channel", pa.array(np.concatenate(names))).append_column("counts", lists), whose


def _counted(channels: Sequence[Channel], packed: bytes) -> tuple[NDArray[np.str_], Places, Counts]:
    """Of the channels that counted something: names, numbers of bins, counts."""
    sizes = np.array([len(channel.counts) for channel in channels])
    try:
        flat = unpack(sizes.tolist(), packed)
    except InputError as error:
        raise InputError(f"windows.packed: {error}") from None
    counted = np.add.reduceat(flat, np.cumsum(sizes) - sizes) > 0
    names = np.array([channel.name for channel in channels])
    return names[counted], sizes[counted], flat[np.repeat(counted, sizes)]


def _offsets(sizes: Sequence[Places]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(np.concatenate([[], *sizes]))]).astype(np.int32))
