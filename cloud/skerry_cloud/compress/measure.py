"""What a variant is worth, measured and not assumed, and which rows it is measured on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.adapters.onnx_model import Answers, OnnxModel
from skerry_cloud.compress import golden
from skerry_cloud.datasets import REFERENCE, TEST, TRAIN, Rows
from skerry_cloud.runs import Variant, VariantReport
from skerry_cloud.workloads import Examples, Workload
from skerry_shared import sketch
from skerry_shared.errors import GateError
from skerry_shared.release import Channel

BASELINE_MIN, BASELINE_MAX = 200, 4000  # rows: enough for 16 bins, and no more than a few seconds of answering
REFERENCE_MIN = 30  # rows: with fewer, 16 bins say next to nothing


def calibration_rows(recent: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Places of about ``count`` rows, spread evenly; half of them recent ones, as far as there are any."""
    new = _spread(np.flatnonzero(recent), count // 2)
    return np.sort(np.concatenate([new, _spread(np.flatnonzero(~recent), count - len(new))]))


def baseline_rows(split: NDArray[np.str_], source: NDArray[np.str_]) -> NDArray[np.int64]:
    """Places of the rows that stand for healthy traffic: held-out ones, because a model is surer of what it learned.

    Where these are few, training rows fill up. What devices sent is not among them: their world had changed.
    """
    old = np.flatnonzero(source == REFERENCE)
    old = old[np.argsort(split[old] == TRAIN, kind="stable")]
    held_out = int((split[old] != TRAIN).sum())
    return np.sort(old[: min(max(held_out, BASELINE_MIN), BASELINE_MAX)])


def reference_rows(split: NDArray[np.str_], source: NDArray[np.str_]) -> dict[str, NDArray[np.int64]]:
    """Places of the held-out rows of each device that sent ``REFERENCE_MIN`` of them or more, by source.

    Such a device is compared with these: what drifted there is what the model was retrained for.
    """
    devices = (str(name) for name in np.unique(source) if name != REFERENCE)
    found = {device: np.flatnonzero((source == device) & (split != TRAIN)) for device in devices}
    return {device: places for device, places in found.items() if len(places) >= REFERENCE_MIN}


@dataclass(frozen=True)
class Trial:
    """What every variant of a run is measured on: test and baseline examples, a pool to choose golden inputs from,
    float32's test accuracy and scores in that pool, and the budget in points."""

    workload: Workload
    test: Examples
    baseline: NDArray[Any]
    references: dict[str, NDArray[Any]]
    pool: Examples
    accuracy: float
    scores: NDArray[np.float32]
    max_drop: float


def trial(workload: Workload, rows: Rows, source: Path, max_drop: float) -> Trial:
    """Choose the examples, and let the float32 model at ``source`` answer them."""
    test, inputs = rows.of(TEST).examples, rows.examples.inputs
    pool = test.take(golden.in_turn(test.labels, golden.POOL))
    model = OnnxModel(source)
    return Trial(
        workload=workload,
        test=test,
        baseline=inputs[baseline_rows(rows.split, rows.source)],
        references={source: inputs[places] for source, places in reference_rows(rows.split, rows.source).items()},
        pool=pool,
        accuracy=_accuracy(workload, model, test),
        scores=model.run(pool.inputs).scores,
        max_drop=max_drop,
    )


def measure(trial: Trial, variant: Variant) -> VariantReport:
    """Answer all of it with the variant's model, write its golden files, return the figures. Raises GateError."""
    model = OnnxModel(variant.model)
    chosen = golden.choose(variant.model, trial.pool.inputs, trial.pool.labels)
    inputs = trial.pool.inputs[chosen.rows]
    accuracy = _accuracy(trial.workload, model, trial.test)
    drop = (trial.accuracy - accuracy) * 100
    if drop > trial.max_drop:
        raise GateError(
            f"{variant.kind.name}: accuracy {accuracy:.4f} is {drop:.2f} points below float32's "
            f"{trial.accuracy:.4f}; at most {trial.max_drop:.2f} are allowed"
        )
    baseline, references = _channels(trial, model)
    _write_golden(variant, trial.workload.input.name, inputs, chosen.answers)
    return VariantReport(
        kind=variant.kind,
        recipe="onnx",
        model_bytes=variant.model.stat().st_size,
        accuracy=accuracy,
        drop=drop,
        parity=float(np.abs(chosen.answers.scores - trial.scores[chosen.rows]).max()),
        latency_ms=model.latency_ms(inputs),
        tolerance=chosen.tolerance,
        tolerance_reason=chosen.reason,
        baseline=baseline,
        references=references,
    )


def _accuracy(workload: Workload, model: OnnxModel, test: Examples) -> float:
    return workload.metrics(model.run(test.inputs).scores, test.labels)["accuracy"]


def _channels(trial: Trial, model: OnnxModel) -> tuple[tuple[Channel, ...], dict[str, tuple[Channel, ...]]]:
    """Baseline and references; the bins are cut over all of them, so that they tell each from the other."""

    def values(inputs: NDArray[Any]) -> sketch.Floats:
        answers = model.run(inputs)
        return sketch.channel_values(answers.scores, answers.monitors)

    healthy, changed = values(trial.baseline), {source: values(rows) for source, rows in trial.references.items()}
    names = sketch.channel_names(trial.workload.monitors)
    bins = sketch.baseline(names, np.concatenate([healthy, *changed.values()]), len(trial.workload.labels))
    return sketch.recount(bins, healthy), {source: sketch.recount(bins, rows) for source, rows in changed.items()}


def _write_golden(variant: Variant, name: str, inputs: NDArray[Any], answers: Answers) -> None:
    for side, arrays in (("in", {name: inputs}), ("out", {"scores": answers.scores, "monitors": answers.monitors})):
        folder = variant.golden(side)
        folder.mkdir(parents=True, exist_ok=True)
        for tensor, array in arrays.items():
            if array.shape[1:] == (0,):
                continue  # a workload that monitors nothing
            np.save(folder / f"{tensor}.npy", array, allow_pickle=False)


def _spread(places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return places[np.linspace(0, len(places) - 1, min(count, len(places))).astype(np.int64)]
