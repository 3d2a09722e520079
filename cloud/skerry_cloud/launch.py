"""The server's side of a ``job``: start the process, follow its progress, turn its last words into an error.

A job whose server has died ends at its next report, because nobody reads it. What it leaves looks unfinished, and the
next job starts afresh.
"""

import asyncio
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from skerry_cloud.job import Progress, Report
from skerry_shared import errors

LINE_LIMIT = 1 << 20  # bytes of one line of progress


async def run(module: str, spec: Any, folder: Path, report: Report) -> None:
    """Run ``python -m module`` to its end; ``spec``, its dataclass, is left in ``folder``. Raises what it raised."""
    path = folder / f"{module.removeprefix('skerry_cloud.')}.json"
    path.write_text(json.dumps(dataclasses.asdict(spec), default=str, indent=1))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        limit=LINE_LIMIT,
    )  # fmt: skip
    assert process.stdout and process.stderr
    try:
        said, _ = await asyncio.gather(process.stderr.read(), _follow(process.stdout, report))
        status = await process.wait()
    finally:
        if process.returncode is None:  # this was cancelled, or the job spoke nonsense
            process.kill()
            await process.wait()
    if status:
        raise _error(module, status, said.decode(errors="replace"))


async def _follow(stream: asyncio.StreamReader, report: Report) -> None:
    async for line in stream:
        report(Progress(**json.loads(line)))


def _error(module: str, status: int, said: str) -> errors.SkerryError:
    last = said.strip().rpartition("\n")[2]
    kind, _, message = last.partition(": ")
    cls = getattr(errors, kind, None)
    if isinstance(cls, type) and issubclass(cls, errors.SkerryError):
        return cls(message)
    return errors.SkerryError(f"{module} ended with status {status}: {last or 'it said nothing'}")
