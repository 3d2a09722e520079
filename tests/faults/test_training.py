"""Training that is killed goes on from its last epoch, and ends as if it had never stopped."""

import dataclasses
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from skerry_cloud import datasets, keys, runs, store, workloads
from skerry_cloud.datasets import REFERENCE
from skerry_cloud.release.repository import Repository
from skerry_cloud.specs import TrainSpec
from skerry_shared import identity

WORKLOADS = Path(__file__).parents[1] / "cloud"
PROGRAM, LEARNER = (Path(__file__).with_name(name) for name in ("job.py", "learner.py"))
EPOCHS, BATCHES = 5, 20  # of an epoch; a line of progress a batch


def test_killed_training_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    tiny = workloads.load("tiny.py:Tiny", WORKLOADS)
    examples = tiny.examples()
    datasets.create(tmp_path / "data", tiny, examples, [REFERENCE] * len(examples), created=1.0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert steps(tmp_path, whole)[0] == 1
    for at in (BATCHES + 7, 3 * BATCHES + 3):
        steps(tmp_path, killed, at)
        assert not (killed / runs.METRICS).exists()
    done = steps(tmp_path, killed)
    assert done[0] == 3 * BATCHES + 1 and done[-1] == EPOCHS * BATCHES
    first, second = (torch.load(run / runs.WEIGHTS, weights_only=True) for run in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (killed / runs.TRAINING).exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_training_goes_on_when_its_job_or_the_whole_cloud_is_killed(tmp_path: Path) -> None:
    made = keys.create(tmp_path / "keys", "test", ("localhost",), 2, time.time())
    Repository(tmp_path / "repository", made).create(identity.utc(time.time()))
    store.migrate(f"sqlite+aiosqlite:///{tmp_path}/state.db")
    shutil.copy(WORKLOADS / "tiny.py", tmp_path)
    first = learn(tmp_path, 3 * BATCHES + 2)
    assert first == list(range(1, 3 * BATCHES + 3))
    second = learn(tmp_path)
    before = second.index(4 * BATCHES + 3)  # where the job kills itself, and goes on from the epoch before
    assert second[0] == 3 * BATCHES + 1 and second[before + 1] in range(4 * BATCHES + 1, 4 * BATCHES + 10)
    assert second[-1] == EPOCHS * BATCHES and 4 * BATCHES + 1 in second[before + 1 :]
    with sqlite3.connect(tmp_path / "state.db") as database:
        told = database.execute("SELECT \"after\" FROM events WHERE kind = 'run' ORDER BY id").fetchall()
    assert [after for (after,) in told] == ["training", "queued", "training", "trained"]


def learn(folder: Path, kill_at: int = 0) -> list[int]:
    """Have the cloud's part train, until this step or the end; which steps were done."""
    done: list[int] = []
    with subprocess.Popen([sys.executable, str(LEARNER), str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            done.append(int(line))
            if done[-1] == kill_at:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == (-signal.SIGKILL if kill_at else 0)
    return done


def steps(folder: Path, run: Path, kill_at: int = 0) -> list[int]:
    """Train to the end, or until this step; which steps were done."""
    spec = TrainSpec("tiny.py:Tiny", WORKLOADS, folder / "data", 1, run, epochs=EPOCHS)
    path = folder / "spec.json"
    path.write_text(json.dumps(dataclasses.asdict(spec), default=str))
    done: list[int] = []
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), "train", str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            stage, number = line.split()
            if stage == "train":
                done.append(int(number))
            if kill_at and done[-1:] == [kill_at]:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == (-signal.SIGKILL if kill_at else 0)
    return done
