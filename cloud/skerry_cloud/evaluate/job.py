"""Champion against candidate as a job. Writes a ``Verdict``."""

import numpy as np
from numpy.typing import NDArray

from skerry_cloud import datasets, runs, workloads
from skerry_cloud.adapters.onnx_model import OnnxModel
from skerry_cloud.datasets import TEST, Rows
from skerry_cloud.evaluate.compare import Gate, compare
from skerry_cloud.job import Progress, Report
from skerry_cloud.paired import Answered, answered
from skerry_cloud.specs import CompareSpec


def work(spec: CompareSpec, report: Report) -> None:
    """Let both answer the same held-out rows; the verdict goes into the candidate's folder."""
    workload = workloads.load(spec.workload, spec.folder)
    version = datasets.open_version(spec.datasets, spec.dataset)
    test = version.read().of(TEST)
    recent = version.recent(test)
    report(Progress("compare", 0, 1, f"{int(recent.sum())} recent and {int((~recent).sum())} old examples"))
    gate = Gate(workload.max_loss if spec.max_loss is None else spec.max_loss)
    verdict = compare(_answered(spec, test, recent), _answered(spec, test, ~recent), gate)
    runs.write(spec.candidate / runs.VERDICT, verdict)
    report(Progress("compare", 1, 1, verdict.reason))


def _answered(spec: CompareSpec, test: Rows, mask: NDArray[np.bool_]) -> Answered:
    inputs, labels = test.examples.inputs[mask], test.examples.labels[mask]
    champion, candidate = (
        OnnxModel(runs.variant(run, spec.kind).model).run(inputs).scores for run in (spec.champion, spec.candidate)
    )
    return answered(labels, champion, candidate)
