"""Starts ``measure`` in a process of its own and watches its time, its memory and its end. All it does is a Finding.

An engine build on an accelerator takes minutes; there is progress to tell every few seconds.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from skerry_edge.infer.choose import Finding
from skerry_edge.infer.measure import Job
from skerry_shared.ports.runtime import CPU

POLL_S = 0.02  # between looks; a leak of 10 GB/s would gain 200 MB in it
PROGRESS_S = 5.0
PROGRAM = "import os; os.setpgrp(); from skerry_edge.infer.measure import main; main()"
CPU_S = (
    300.0  # seconds that a trial may take; half a second is enough, but on a busy core it gets only what is left over
)
ACCELERATOR_S = 1800.0  # TensorRT has been seen to build for 10 minutes
FLOOR_BYTES = 192 << 20  # of the program itself: Python, numpy and a runtime
LAST_WORDS = 400  # characters of what the program said at its end

Progress = Callable[[str], None]


def try_out(job: Job, progress: Progress, deadline_s: float | None = None) -> Finding:
    """Try a model on one provider, in a child process. Blocks; the calling thread must live until it returns.

    What ``progress`` raises ends the trial.
    """
    limit_s = deadline_s or (CPU_S if job.provider == CPU else ACCELERATOR_S)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-c", PROGRAM, json.dumps(asdict(job))]
        child = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=errors)
        try:
            _give_way(child)
            fault = _watch(child, job, limit_s, progress)
        finally:
            _end(child)
        return _finding(job, fault or _death(child.returncode, errors), out)


def _give_way(child: "subprocess.Popen[bytes]") -> None:
    """Whatever else wants the core comes first, at once (nice lets it wait for milliseconds).

    It stays in the agent's session: where the kernel shares out time by session first (autogroup), a child with one of
    its own would get as much as the agent.
    """
    os.sched_setscheduler(child.pid, os.SCHED_IDLE, os.sched_param(0))


def _watch(child: "subprocess.Popen[bytes]", job: Job, limit_s: float, progress: Progress) -> str:
    """Wait for its end; why it must be ended, if it must be."""
    start, told = time.monotonic(), 0.0
    while child.poll() is None:
        passed = time.monotonic() - start
        if passed > limit_s:
            return f"did not answer the golden inputs within {limit_s:g} s"
        if _resident(child.pid) > job.memory_bytes + FLOOR_BYTES:
            return f"took more than {job.memory_bytes >> 20} MB of memory"
        if passed - told >= PROGRESS_S:
            told = passed
            progress(f"{job.provider}: being built and measured for {passed:.0f} s")
        time.sleep(POLL_S)
    return ""


def _resident(pid: int) -> int:
    """Bytes of its resident memory; 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        child.kill()
        with suppress(ProcessLookupError):  # it came to no group of its own
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _death(code: int, errors: IO[bytes]) -> str:
    """What the way it ended says; empty for a good end."""
    if code == 0:
        return ""
    errors.seek(0)
    words = errors.read()[-LAST_WORDS:].decode(errors="replace").strip().splitlines()
    how = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
    return f"{how}: {words[-1]}" if words else how


def _finding(job: Job, fault: str, out: IO[bytes]) -> Finding:
    if fault:
        return Finding(job.provider, fault)
    out.seek(0)
    try:
        return Finding(**json.loads(out.read()))
    except (ValueError, TypeError):
        return Finding(job.provider, "ended without a finding")
