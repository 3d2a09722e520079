"""A watch's state as bytes, so that a start need not fold all windows of the past again."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.drift.bank import STATE, Bank
from skerry_cloud.drift.finding import Place
from skerry_cloud.drift.traffic import Known, Pool, Traffic
from skerry_cloud.drift.watch import Silence, State
from skerry_shared.config import decode
from skerry_shared.errors import InputError
from skerry_shared.release import Channel

Arrays = dict[str, NDArray[Any]]


def dump(state: State) -> bytes:
    """The state, for ``load``."""
    arrays: Arrays = {}
    traffic = [_dump_traffic(model, found, arrays) for model, found in state.traffic.items()]
    silent = [[*place, sorted(silence.devices), silence.moved] for place, silence in state.silent.items()]
    head = json.dumps({"traffic": traffic, "silent": silent, "most": state.most})
    file = BytesIO()
    np.savez_compressed(file, head=np.frombuffer(head.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def load(data: bytes, tolerance: float) -> State:
    """Undo ``dump``. Raises InputError if the state is of a watch with other alternatives, or another state."""
    with np.load(BytesIO(data), allow_pickle=False) as arrays:
        head = json.loads(arrays["head"].tobytes())
        traffic = {tuple(told["model"]): _load_traffic(told, arrays, tolerance) for told in head["traffic"]}
    silent = {Place(*place): Silence(frozenset(devices), moved) for *place, devices, moved in head["silent"]}
    return State(traffic, silent, head["most"])


def _dump_traffic(model: tuple[str, int], traffic: Traffic, arrays: Arrays) -> dict[str, Any]:
    channels = list(traffic.series)
    places = {channel: place for place, channel in enumerate(channels)}
    members = [
        [device, member.group, [places[series.channel] for series in member.series.values()]]
        for device, member in traffic.members.items()
    ]
    series = [_dump_bank(found.bank, arrays) for found in traffic.series.values()]
    pools = [[channel, *_dump_bank(bank, arrays)] for (channel, _), bank in traffic.pools.items()]
    return {
        "model": model, "members": members,
        "channels": [asdict(channel) for channel in channels], "series": series, "pools": pools,
    }  # fmt: skip


def _load_traffic(told: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], tolerance: float) -> Traffic:
    channels = [decode(Channel, channel, "checkpoint") for channel in told["channels"]]
    traffic = Traffic(tolerance)
    for device, group, places in told["members"]:
        traffic.join(device, Known([channels[place] for place in places], group))
    for channel, (name, keys) in zip(channels, told["series"], strict=True):
        if channel in traffic.series:
            bank = traffic.series[channel].bank
            if (width := len(arrays[f"{name}/log_weights"])) != bank.width:
                raise InputError(f"checkpoint: {channel.name} has {width} alternatives")
            bank.load(keys, _rows(name, arrays))
    for channel, name, keys in told["pools"]:
        pools: Bank[Pool] = Bank(arrays[f"{name}/log_weights"], arrays[f"{name}/counts"].shape[1])
        pools.load([(level, pool) for level, pool in keys], _rows(name, arrays))
        traffic.pools[channel, pools.width] = pools
    return traffic


def _dump_bank(bank: Bank[Any], arrays: Arrays) -> tuple[str, list[Any]]:
    """Its name among the arrays, and its keys in the order of the rows."""
    name = str(len(arrays))
    arrays[f"{name}/log_weights"] = bank.log_weights
    arrays.update({f"{name}/{part}": array for part, array in bank.arrays().items()})
    return name, sorted(bank.rows, key=bank.rows.__getitem__)


def _rows(name: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    if missing := [part for part in STATE if f"{name}/{part}" not in arrays]:
        raise InputError(f"checkpoint: has no {', '.join(missing)}")
    return {part: arrays[f"{name}/{part}"] for part in STATE}
