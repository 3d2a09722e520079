"""What all passes of a study work with, from what a job is told."""

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skerry_cloud import runs
from skerry_cloud.adapters.onnx_model import OnnxModel
from skerry_cloud.compress.measure import calibration_rows
from skerry_cloud.datasets import TRAIN, DatasetVersion, Rows
from skerry_cloud.job import Progress, Report
from skerry_cloud.passes import Material
from skerry_cloud.specs import CompressSpec
from skerry_cloud.workloads import Examples, Workload

CALIBRATION = 512  # inputs: the ranges of activations no longer change beyond some hundreds


def gather(spec: CompressSpec, workload: Workload, version: DatasetVersion, rows: Rows, report: Report) -> Material:
    """``rows`` are the version's, ``report`` hears how trainings go."""
    train = rows.of(TRAIN)
    recent = version.recent(train)

    def say(done: int, total: int, note: str) -> None:
        if done * 100 // total > (done - 1) * 100 // total:
            report(Progress("learn", done, total, note))

    return Material(
        workload=workload,
        train=train.examples,
        recent=recent,
        calibration=train.examples.inputs[calibration_rows(recent, CALIBRATION)],
        teacher=functools.cache(functools.partial(_answers, spec.run / runs.MODEL, workload, train.examples)),
        say=say,
        seed=spec.seed,
        threads=spec.threads,
    )


def _answers(model: Path, workload: Workload, examples: Examples, view: int) -> NDArray[np.float32]:
    """The champion's scores for a view of the examples. Every pass that trains asks for them."""
    return OnnxModel(model).run(workload.seen(examples.inputs, view)).scores
