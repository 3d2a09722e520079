"""The server's side of a ``job``: start the process, follow its progress, turn what stopped it into an error.

Processes are forked from one that has loaded what jobs load (torch, its compiler, the exporter: some ten seconds of a
core) and nothing else: no keys, no database, no thread of the server's. It costs memory once, some 0.5 GB. A job whose
server has died ends at its next report. What it leaves looks unfinished: the next job starts afresh, or goes on from
what it kept (training after each epoch, a search after each trial).
"""

import asyncio
import multiprocessing
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from skerry_cloud import job
from skerry_cloud.job import Failure, Progress, Report
from skerry_shared import errors

LOADED = (
    "skerry_cloud.train.ingest", "skerry_cloud.train.job", "skerry_cloud.train.adopt", "skerry_cloud.compress.job",
    "skerry_cloud.compress.settle", "skerry_cloud.evaluate.job", "onnxscript", "sklearn.datasets", "torch._dynamo",
)  # fmt: skip

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(LOADED))


class KilledError(errors.SkerryError):
    """A job was killed, by a signal: the machine wanted its memory, or a person its cores."""


def warm_up() -> None:
    """Begin to load what jobs load, in a process beside this one. Returns at once."""
    forkserver.ensure_running()


async def run(module: str, spec: Any, folder: Path, report: Report) -> None:
    """Let ``module.work(spec, …)`` run to its end in a process of its own. Raises what it raised.

    What it prints is in a log in ``folder``, named for the module. If this is cancelled, the process ends.
    """
    log = folder / f"{module.removeprefix('skerry_cloud.').removesuffix('.job')}.log"
    heard, channel = _context.Pipe(duplex=False)
    process = _context.Process(target=job.main, args=(module, spec, log, channel))
    starting = asyncio.create_task(asyncio.to_thread(_start, process, channel))
    try:
        await asyncio.shield(starting)
        failure = await _follow(heard, report)
        await asyncio.to_thread(process.join)
    finally:  # it has ended, or this was cancelled
        await starting
        process.kill()
        await asyncio.to_thread(process.join)
        heard.close()
    if failure:
        raise _error(failure)
    if process.exitcode and process.exitcode < 0:
        raise KilledError(f"{module} ended with status {process.exitcode}, see {log}")
    if process.exitcode:
        raise errors.SkerryError(f"{module} ended with status {process.exitcode}, see {log}")


def _start(process: Any, channel: "Connection[Any, Any]") -> None:
    process.start()
    channel.close()  # of this process: the end of the other one is now the end of what can be heard


async def _follow(heard: "Connection[Any, Any]", report: Report) -> Failure | None:
    """Until there is nothing more to hear; what kept the work from its end, if anything did."""
    failure = None
    while said := await asyncio.to_thread(_hear, heard):
        if isinstance(said, Failure):
            failure = said
        else:
            report(said)
    return failure


def _hear(heard: "Connection[Any, Any]") -> Progress | Failure | None:
    try:
        said: Progress | Failure = heard.recv()
    except EOFError:
        return None
    return said


def _error(failure: Failure) -> errors.SkerryError:
    kind: type[errors.SkerryError] = getattr(errors, failure.kind)
    return kind(failure.text)
