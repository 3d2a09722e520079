"""Who of the cloud's processes takes which shard of the devices: the same answer in each that sees the same others."""

import hashlib
from collections.abc import Collection

from skerry_shared.mqtt import CLOUD, SHARDS


def split(present: Collection[str]) -> dict[str, frozenset[str]]:
    """The shards of each process that is present: as many for each, give or take one.

    The server (``mqtt.CLOUD``) takes part only while it is alone. A shard goes to the process that ranks first for it
    by rendezvous hashing (Thaler, Ravishankar, 1998) among those that have room, so few move when one comes or goes.
    """
    workers = sorted(set(present) - {CLOUD}) or sorted(present)
    room = {name: len(SHARDS) // len(workers) + (place < len(SHARDS) % len(workers))
            for place, name in enumerate(workers)}  # fmt: skip
    taken: dict[str, set[str]] = {name: set() for name in present}
    for shard in SHARDS if workers else ():
        owner = max((name for name in workers if len(taken[name]) < room[name]), key=lambda name: _rank(name, shard))
        taken[owner].add(shard)
    return {name: frozenset(shards) for name, shards in taken.items()}


def _rank(name: str, shard: str) -> bytes:
    return hashlib.sha256(f"{name}/{shard}".encode()).digest()
