"""A search that is killed goes on where it was: nothing is made twice, and it chooses what it would have chosen."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skerry_cloud import datasets, runs, workloads
from skerry_cloud.compress import study
from skerry_cloud.compress.study import Study
from skerry_cloud.datasets import REFERENCE
from skerry_cloud.specs import CompressSpec, TrainSpec, Wanted
from skerry_cloud.train.job import work as train

WORKLOADS = Path(__file__).parents[1] / "cloud"
PROGRAM = Path(__file__).with_name("job.py")
KILLS = (1, 3)  # trials after which the search is killed
STUDENT = "distil(width=0.5, epochs=3) + onnx"
INT8 = "int8(arch='x86_64') + slim"
RECIPES = ("slim", INT8, "int8(arch='x86_64', spare=1) + slim", f"{STUDENT} + slim", f"{STUDENT} + {INT8}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    tiny = workloads.load("tiny.py:Tiny", WORKLOADS)
    examples = tiny.examples()
    datasets.create(folder / "data", tiny, examples, [REFERENCE] * len(examples), created=1.0)
    train(TrainSpec("tiny.py:Tiny", WORKLOADS, folder / "data", 1, folder / "run"), lambda _: None)
    return folder


@pytest.mark.slow
def test_a_search_survives_kills(trained: Path, tmp_path: Path) -> None:
    whole, killed = (shutil.copytree(trained, tmp_path / name) for name in ("whole", "killed"))
    with search(whole) as process:
        assert process.wait(100) == 0
    for trials in KILLS:
        before = made(killed)
        with search(killed) as process:
            kill_after(process, trials)
        assert before.items() < made(killed).items()
    before = made(killed)
    with search(killed) as process:
        assert process.wait(100) == 0
    assert before.items() < made(killed).items()
    assert decisions(killed) == decisions(whole)


def search(folder: Path) -> "subprocess.Popen[str]":
    wanted = Wanted(("generic-x86-64",), 8.0, minutes=5, recipes=RECIPES)
    spec = CompressSpec("tiny.py:Tiny", WORKLOADS, folder / "data", 1, folder / "run", wanted)
    path = folder / "spec.json"
    path.write_text(json.dumps(dataclasses.asdict(spec), default=str))
    command = [sys.executable, str(PROGRAM), "compress", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def kill_after(process: "subprocess.Popen[str]", trials: int) -> None:
    """As soon as it has said so of this many trials: it is then in the midst of the next."""
    assert process.stdout
    for line in process.stdout:
        trials -= "rung" in line
        if not trials:
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL


def made(folder: Path) -> dict[str, int]:
    """What is finished, and when it was."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("study/steps/*/*.json")}


def decisions(folder: Path) -> list[tuple[str, list[str]]]:
    """Which recipes were tried, on which rung, and what exactly they made; but for latencies, which are measured."""
    (found,) = runs.read(Study, folder / "run" / study.FOLDER / study.STUDY).searches
    assert found.chosen
    return [(trial.recipe, [step.sha256 for step in trial.lineage]) for trial in found.trials if not trial.rung]
