import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from skerry_cloud import launch
from skerry_cloud.job import Progress
from skerry_shared.errors import GateError, SkerryError

JOB = """
from dataclasses import dataclass
from skerry_cloud import job
from skerry_shared.errors import GateError

@dataclass(frozen=True)
class Spec:
    do: str

def work(spec, report):
    report(job.Progress("stage", 1, 2, "note"))
    if spec.do == "gate":
        raise GateError("2.1 points lost, 1.0 allowed")
    if spec.do == "crash":
        raise ZeroDivisionError("by zero")
    if spec.do == "sleep":
        import time
        time.sleep(600)

job.leave(job.main(Spec, work))
"""


@dataclass(frozen=True)
class Spec:
    do: str


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "toyjob.py").write_text(JOB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "toyjob"


def test_progress_is_reported_and_the_end_is_quiet(module: str, tmp_path: Path) -> None:
    seen: list[Progress] = []
    asyncio.run(launch.run(module, Spec("well"), tmp_path, seen.append))
    assert seen == [Progress("stage", 1, 2, "note")]


def test_a_job_that_refuses_raises_the_same_error_here(module: str, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"^2\.1 points lost, 1\.0 allowed$"):
        asyncio.run(launch.run(module, Spec("gate"), tmp_path, lambda _: None))


def test_a_job_that_breaks_is_an_error_with_its_last_words(module: str, tmp_path: Path) -> None:
    with pytest.raises(SkerryError, match=r"^toyjob ended with status 1: ZeroDivisionError: by zero$"):
        asyncio.run(launch.run(module, Spec("crash"), tmp_path, lambda _: None))


def test_a_cancelled_job_leaves_no_process(module: str, tmp_path: Path) -> None:
    async def story() -> None:
        started = asyncio.Event()
        running = asyncio.ensure_future(launch.run(module, Spec("sleep"), tmp_path, lambda _: started.set()))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(story())
    mine = [file for file in Path("/proc").glob("[0-9]*/cmdline") if _reads(file, b"toyjob", str(tmp_path).encode())]
    assert mine == []


def _reads(file: Path, *words: bytes) -> bool:
    try:
        return all(word in file.read_bytes() for word in words)
    except OSError:  # it ended while we looked
        return False
