"""The part of the cloud that trains, as a process that can be killed. Argument: its folder.

Goes on with what was interrupted, or begins a run. Prints the steps of training, and kills its job once, at one of
them.
"""

import asyncio
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

from sqlalchemy import select

from skerry_cloud.fleet.benchmarks import Benchmarks
from skerry_cloud.fleet.director import Director
from skerry_cloud.job import Progress
from skerry_cloud.keys import Keys
from skerry_cloud.learning import Learning
from skerry_cloud.release.repository import Repository
from skerry_cloud.store import Run, Store

kill_job_at = [83]  # of 100 steps


def say(progress: Progress) -> None:
    if progress.stage == "train":
        sys.stdout.write(f"{progress.done}\n")
        sys.stdout.flush()
        if [progress.done] == kill_job_at:
            kill_job_at.clear()
            (job,) = multiprocessing.active_children()
            assert job.pid
            os.kill(job.pid, signal.SIGKILL)


async def nobody(_device: str, _signed: bytes) -> None:
    """Is linked."""


async def main(folder: Path) -> None:
    store, keys = Store(f"sqlite+aiosqlite:///{folder}/state.db"), Keys(folder / "keys")
    repository = Repository(folder / "repository", keys)
    benchmarks = Benchmarks(Director(store, keys.signer("director"), "test", 1, nobody))
    learning = Learning(store, folder, {"tiny": "tiny.py:Slow"}, repository, "test", benchmarks, price=60.0)
    await learning.recover()
    run = await store.first(select(Run))
    if run is None:
        await learning.ingest("tiny", "test", lambda _: None)
        run = await learning.enqueue("tiny", 0, 0, epochs=5)
    began = time.monotonic()
    done = await learning.fit(run.id, "test", say)
    assert 0 < done.seconds <= time.monotonic() - began and done.cost == done.seconds
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
