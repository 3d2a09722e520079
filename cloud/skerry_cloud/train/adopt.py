"""Importing a model as a job: an ONNX or .tflite file of any origin fills a run folder, see ``runs``.

From there on it is a run as any other: compressed, evaluated, published, rolled out and watched. It cannot be trained
on, because a file holds no training.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_cloud import datasets, runs, workloads
from skerry_cloud.adapters import models
from skerry_cloud.datasets import TEST
from skerry_cloud.job import Progress, Report
from skerry_cloud.specs import AdoptSpec
from skerry_cloud.train import adopt_onnx, adopt_tflite
from skerry_cloud.train.job import declare, evaluate
from skerry_cloud.workloads import Workload
from skerry_shared import privacy
from skerry_shared.errors import ModelError

SAMPLES = 256  # inputs that a file is tried on

Adopt = Callable[[Path, Path, Workload, NDArray[Any], str], list[str]]
FORMS: Mapping[str, Adopt] = {".onnx": adopt_onnx.adopt, ".tflite": adopt_tflite.adopt}


def work(spec: AdoptSpec, report: Report) -> None:
    """Fit the file to the workload, try it on held-out rows, evaluate it, and write the metrics last."""
    workload = workloads.load(spec.workload, spec.folder)
    report(Progress("data", 0, 1))
    version = datasets.open_version(spec.datasets, spec.dataset)
    if version.returned and privacy.acts(workload.fields()):
        raise ModelError(
            f"dataset {spec.dataset}: has samples of devices, which hide what a file's network looks at; choose a "
            "version of the workload's own data, as in --dataset 1"
        )
    test = version.read().of(TEST)
    report(Progress("data", 1, 1, f"version {spec.dataset}, {len(test)} held-out examples"))
    suffix = spec.file.suffix
    if suffix not in FORMS:
        raise ModelError(f"{spec.file.name}: not a model that can be imported; known: {', '.join(FORMS)}")
    target = spec.run / f"model{suffix}"
    notes = FORMS[suffix](spec.file, target, workload, test.examples.inputs[:SAMPLES], spec.scores)
    report(Progress("import", 1, 1, "; ".join(notes) or "as it is"))
    scores = models.load(target).run(test.examples.inputs).scores
    if not np.isfinite(scores).all():
        raise ModelError(f"{spec.file.name}: scores: not every one is a finite number")
    declare(workload, spec.run)
    metrics = evaluate(workload, version, test, scores, runs.Training(0, 0, 0, 0.0, 0.0))
    runs.write(spec.run / runs.METRICS, metrics)
    report(Progress("evaluate", 1, 1, f"accuracy {metrics.overall['accuracy']:.4f} on {len(test)} held-out examples"))
