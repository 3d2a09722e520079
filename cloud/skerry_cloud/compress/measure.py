"""What a variant is worth, measured and not assumed, and which rows it is measured on.

Golden inputs go to the device with the answers of this very file. A device has other kernels, so its answers may differ
by rounding; ``TOLERANCE`` says by how much, and a file that exceeds it on this machine already, computed in two ways,
is not let out at all.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.adapters.onnx_model import Answers, OnnxModel
from skerry_cloud.datasets import TEST, TRAIN, Rows
from skerry_cloud.runs import Variant, VariantReport
from skerry_cloud.workloads import Examples, Workload
from skerry_shared import sketch
from skerry_shared.errors import GateError
from skerry_shared.release import Channel

GOLDEN = 32
BASELINE_MIN, BASELINE_MAX = 1000, 4000  # rows: enough for 16 bins, and no more than a few seconds of answering

TOLERANCE = {
    "float32": (1e-3, "kernels add in different order: some 1e-6 a score, and a wrong kernel is far above 1e-3"),
    "int8": (0.05, "a kernel may round an activation one step differently, which moves a score by a few hundredths"),
}


def golden_rows(labels: NDArray[np.int64], count: int = GOLDEN) -> NDArray[np.int64]:
    """Places of ``count`` examples (fewer if there are not as many), each label in turn."""
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    return np.lexsort((labels, rank))[:count]


def calibration_rows(recent: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Places of about ``count`` rows, spread evenly; half of them recent ones, as far as there are any."""
    new = _spread(np.flatnonzero(recent), count // 2)
    return np.sort(np.concatenate([new, _spread(np.flatnonzero(~recent), count - len(new))]))


def baseline_rows(split: NDArray[np.str_], recent: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Places of the rows that stand for healthy traffic: held-out ones, because a model is surer of what it learned.

    Where these are few, training rows fill up. In a version with recent rows, all of these and as many reference rows.
    """
    order = np.argsort(split == TRAIN, kind="stable")
    held_out = int((split[order] != TRAIN).sum())
    old = order[~recent[order]]
    if not recent.any():
        return np.sort(old[: min(max(held_out, BASELINE_MIN), BASELINE_MAX)])
    new = order[recent[order]][: BASELINE_MAX // 2]
    return np.sort(np.concatenate([new, old[: len(new)]]))


@dataclass(frozen=True)
class Trial:
    """What every variant of a run is measured on: test and baseline examples, golden inputs, float32's test accuracy
    and golden scores, and the budget in points."""

    workload: Workload
    test: Examples
    baseline: NDArray[Any]
    golden: NDArray[Any]
    accuracy: float
    scores: NDArray[np.float32]
    max_drop: float


def trial(workload: Workload, rows: Rows, recent: NDArray[np.bool_], source: Path, max_drop: float) -> Trial:
    """Choose the examples, and let the float32 model at ``source`` answer them."""
    test = rows.of(TEST).examples
    golden = test.inputs[golden_rows(test.labels)]
    model = OnnxModel(source)
    return Trial(
        workload=workload,
        test=test,
        baseline=rows.examples.inputs[baseline_rows(rows.split, recent)],
        golden=golden,
        accuracy=_accuracy(workload, model, test),
        scores=model.run(golden).scores,
        max_drop=max_drop,
    )


def measure(trial: Trial, variant: Variant, precision: str, arch: str) -> VariantReport:
    """Answer all of it with the variant's model, write its golden files, return the figures. Raises GateError."""
    model = OnnxModel(variant.model)
    golden = model.run(trial.golden)
    tolerance, reason = TOLERANCE[precision]
    _check_kernels(variant.model, trial.golden, golden, tolerance)
    accuracy = _accuracy(trial.workload, model, trial.test)
    drop = (trial.accuracy - accuracy) * 100
    if drop > trial.max_drop:
        raise GateError(
            f"{precision} for {arch}: accuracy {accuracy:.4f} is {drop:.2f} points below float32's "
            f"{trial.accuracy:.4f}; at most {trial.max_drop:.2f} are allowed"
        )
    _write_golden(variant, trial.workload.input.name, trial.golden, golden)
    return VariantReport(
        precision=precision,
        arch=arch,
        model_bytes=variant.model.stat().st_size,
        accuracy=accuracy,
        drop=drop,
        parity=float(np.abs(golden.scores - trial.scores).max()),
        latency_ms=model.latency_ms(trial.golden),
        tolerance=tolerance,
        tolerance_reason=reason,
        baseline=_baseline(trial.workload, model.run(trial.baseline)),
    )


def _accuracy(workload: Workload, model: OnnxModel, test: Examples) -> float:
    return workload.metrics(model.run(test.inputs).scores, test.labels)["accuracy"]


def _check_kernels(model: Path, inputs: NDArray[Any], answers: Answers, tolerance: float) -> None:
    plain = OnnxModel(model, optimised=False).run(inputs)
    difference = max(
        float(np.abs(plain.scores - answers.scores).max()), float(np.abs(plain.monitors - answers.monitors).max())
    )
    if not difference <= tolerance:  # a NaN is over it too
        raise GateError(
            f"{model.parent.name}: golden answers of optimised and plain kernels differ by {difference:.3g}, "
            f"over the tolerance {tolerance}: devices would not agree"
        )


def _baseline(workload: Workload, answers: Answers) -> tuple[Channel, ...]:
    values = sketch.channel_values(answers.scores, answers.monitors)
    return sketch.baseline(sketch.channel_names(workload.monitors), values, len(workload.labels))


def _write_golden(variant: Variant, name: str, inputs: NDArray[Any], answers: Answers) -> None:
    for side, arrays in (("in", {name: inputs}), ("out", {"scores": answers.scores, "monitors": answers.monitors})):
        folder = variant.golden(side)
        folder.mkdir(parents=True, exist_ok=True)
        for tensor, array in arrays.items():
            np.save(folder / f"{tensor}.npy", array, allow_pickle=False)


def _spread(places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return places[np.linspace(0, len(places) - 1, min(count, len(places))).astype(np.int64)]
