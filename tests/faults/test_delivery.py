"""No durable record is lost or counted twice, whoever is killed, wherever the link is cut, whatever the disk does.

`scripts/bench telemetry` makes 200 runs of these and prints the counts.
"""

import asyncio
from pathlib import Path

import pytest

from delivering.run import LIVES, run


@pytest.mark.parametrize("seed", range(4))
def test_every_durable_record_is_in_the_lake_exactly_once(seed: int, tmp_path: Path) -> None:
    tally = asyncio.run(asyncio.wait_for(run(tmp_path, seed), 100))
    assert not tally.lost
    assert not tally.twice
    assert not tally.quarantined
    assert tally.durable
    if not tally.faults["full disk"]:
        # a batch may be stored although the agent was killed before it could say that it was durable: one a life
        assert tally.stored - tally.durable <= LIVES - 1
