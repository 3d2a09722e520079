"""The cloud is killed while its lake is compacted and moved."""

import random
import subprocess
import sys
import time
from pathlib import Path

from skerry_cloud.ingest.lake import Lake

KEEPER, LIVES = Path(__file__).with_name("keeper.py"), 5


def test_what_is_killed_while_it_tends_the_lake_loses_and_doubles_nothing(tmp_path: Path) -> None:
    rng, durable = random.Random(0), 0
    for _ in range(LIVES):
        durable = max(durable, _life(tmp_path, rng.randrange(1, 6), rng.uniform(0, 0.3)))
        lake = Lake(tmp_path / "lake", str(tmp_path / "cold"))
        found = sorted(lake.scan("labels")["counter"].to_pylist())
        assert found == list(range(1, len(found) + 1)) and durable <= len(found) <= durable + 1
    assert lake.table("labels").files().cold


def _life(folder: Path, rows: int, seconds: float) -> int:
    """The last row that was durable when it was killed: ``seconds`` after it had so many new ones."""
    with subprocess.Popen([sys.executable, KEEPER, folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        told = [process.stdout.readline() for _ in range(rows)]
        time.sleep(seconds)  # anywhere in its work
        process.kill()
        told += process.stdout.readlines()
    return int(told[-1])
