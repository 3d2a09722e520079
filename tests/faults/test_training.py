"""Training that is killed goes on from its last epoch, and ends as if it had never stopped."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import torch

from skerry_cloud import datasets, runs, workloads
from skerry_cloud.datasets import REFERENCE
from skerry_cloud.specs import TrainSpec

WORKLOADS = Path(__file__).parents[1] / "cloud"
PROGRAM = Path(__file__).with_name("job.py")
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


def steps(folder: Path, run: Path, kill_at: int = 0) -> list[int]:
    """Train to the end, or until this step; which steps were done."""
    spec = TrainSpec("tiny.py:Tiny", WORKLOADS, folder / "data", 1, run, epochs=EPOCHS)
    path = folder / "spec.json"
    path.write_text(json.dumps(dataclasses.asdict(spec), default=str))
    done: list[int] = []
    with subprocess.Popen([sys.executable, str(PROGRAM), "train", str(path)], stdout=subprocess.PIPE, text=True) as process:
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
