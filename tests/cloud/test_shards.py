from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry_cloud.adapters.shards import split
from skerry_shared.mqtt import CLOUD, SHARDS, shard, worker

workers = st.sets(st.integers(1, 64).map(worker), max_size=64)


@settings(max_examples=25)
@given(workers)
def test_each_shard_is_one_workers_and_each_worker_has_as_many(present: set[str]) -> None:
    shares = split({CLOUD, *present})
    assert sorted(name for mine in shares.values() for name in mine) == list(SHARDS)
    sizes = [len(shares[name]) for name in present or {CLOUD}]
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=25)
@given(workers.filter(bool))
def test_the_server_takes_part_only_while_it_is_alone(present: set[str]) -> None:
    assert not split({CLOUD, *present})[CLOUD]
    assert split({CLOUD, *present}) == split(present) | {CLOUD: frozenset()}
    assert split({CLOUD}) == {CLOUD: frozenset(SHARDS)}


@pytest.mark.parametrize("count", [2, 3, 5, 8, 16])
def test_few_shards_move_when_a_worker_goes(count: int) -> None:
    names = [worker(number + 1) for number in range(count)]
    before, after = split(names), split(names[1:])
    moved = sum(len(after[name] - before[name]) for name in after)
    assert len(before[names[0]]) <= moved <= 1.5 * len(before[names[0]])


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_many_devices_are_split_within_ten_percent(count: int) -> None:
    owner = {name: who for who, mine in split([worker(n + 1) for n in range(count)]).items() for name in mine}
    devices = Counter(owner[shard(f"device-{number}")] for number in range(20_000))
    assert all(abs(number - 20_000 / count) <= 0.1 * 20_000 / count for number in devices.values())
