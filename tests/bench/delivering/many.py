"""Many runs under faults, some at once, and what they came to."""

import asyncio
import random
import tempfile
from collections import Counter
from pathlib import Path

from delivering.run import Tally, run

AT_ONCE = 2
PATIENCE = 300.0  # seconds of a run; one takes ten


def many(runs: int, seed: int) -> dict[str, int]:
    """Prints each run's line and the counts of faults; ``lost`` and ``duplicated`` should be 0."""
    with tempfile.TemporaryDirectory(prefix="skerry-") as folder:
        tallies = asyncio.run(_all(Path(folder), runs, seed))
    faults = sum((tally.faults for tally in tallies), Counter[str]())
    print("faults: " + ", ".join(f"{kind} {times}" for kind, times in faults.most_common()))
    return {
        "fault_runs": len(tallies),
        "faults": faults.total(),
        "durable": sum(tally.durable for tally in tallies),
        "lost": sum(len(tally.lost) for tally in tallies),
        "duplicated": sum(len(tally.twice) for tally in tallies),
    }


async def _all(folder: Path, runs: int, seed: int) -> list[Tally]:
    rng, turn = random.Random(seed), asyncio.Semaphore(AT_ONCE)

    async def one(number: int, seed: int) -> Tally:
        async with turn:
            (place := folder / str(number)).mkdir()
            tally = await asyncio.wait_for(run(place, seed), PATIENCE)
        faults = ", ".join(f"{kind} {times}" for kind, times in tally.faults.items())
        print(f"{number:3}/{runs} {tally.durable} durable, {len(tally.lost)} lost, {len(tally.twice)} twice · {faults}")
        return tally

    return list(await asyncio.gather(*(one(number, rng.randrange(1 << 32)) for number in range(1, runs + 1))))
