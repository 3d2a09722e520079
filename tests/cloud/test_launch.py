import asyncio
import multiprocessing
from pathlib import Path

import pytest

from skerry_cloud import launch
from skerry_cloud.job import Progress
from skerry_shared.errors import GateError, SkerryError

JOB = """
import os
import signal
from skerry_cloud.job import Progress
from skerry_shared.errors import GateError

def work(do, report):
    os.write(1, b"a library prints\\n")
    report(Progress("stage", 1, 2, "note"))
    if do == "refuse":
        raise GateError("2.1 points lost, 1.0 allowed")
    if do == "break":
        raise ZeroDivisionError("by zero")
    if do == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if do == "wait":
        report(Progress(str(os.getpid()), 1, 2))
        signal.pause()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "toyjob.py").write_text(JOB)
    monkeypatch.syspath_prepend(tmp_path)
    return "toyjob"


def test_progress_is_reported_and_what_is_printed_is_logged(module: str, tmp_path: Path) -> None:
    seen: list[Progress] = []
    asyncio.run(launch.run(module, "well", tmp_path, seen.append))
    assert seen == [Progress("stage", 1, 2, "note")]
    assert (tmp_path / "toyjob.log").read_text() == "a library prints\n"


def test_a_job_that_refuses_raises_the_same_error_here(module: str, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"^2\.1 points lost, 1\.0 allowed$"):
        asyncio.run(launch.run(module, "refuse", tmp_path, _ignore))


def test_a_job_that_breaks_is_an_error_that_names_its_log(module: str, tmp_path: Path) -> None:
    with pytest.raises(SkerryError, match=r"^toyjob broke, see .*/toyjob\.log: ZeroDivisionError: by zero$"):
        asyncio.run(launch.run(module, "break", tmp_path, _ignore))
    assert "line 13, in work" in (tmp_path / "toyjob.log").read_text()


def test_a_job_that_crashes_is_an_error_with_its_status(module: str, tmp_path: Path) -> None:
    with pytest.raises(SkerryError, match=r"^toyjob ended with status -11, see .*/toyjob\.log$"):
        asyncio.run(launch.run(module, "crash", tmp_path, _ignore))


def test_a_cancelled_job_leaves_no_process(module: str, tmp_path: Path) -> None:
    seen: list[Progress] = []

    async def story() -> None:
        waiting = asyncio.Event()

        def report(progress: Progress) -> None:
            seen.append(progress)
            if progress.stage != "stage":
                waiting.set()

        running = asyncio.ensure_future(launch.run(module, "wait", tmp_path, report))
        await waiting.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(story())
    assert not Path("/proc", seen[-1].stage).exists()


def test_a_job_that_is_cancelled_while_it_starts_leaves_no_process(module: str, tmp_path: Path) -> None:
    async def story() -> None:
        running = asyncio.ensure_future(launch.run(module, "wait", tmp_path, _ignore))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(story())
    assert multiprocessing.active_children() == []


def _ignore(_: Progress) -> None:
    pass
