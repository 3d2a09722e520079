"""What a variant is worth, measured and not assumed, and which rows it is measured on.

Golden inputs go to the device with the answers of this very file. A device has other kernels, so its answers may differ
by rounding; ``TOLERANCE`` says by how much, and a file that exceeds it on this machine already, computed in two ways,
is not let out at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.adapters.onnx_model import Answers, OnnxModel
from skerry_cloud.datasets import REFERENCE, TEST, TRAIN, Rows
from skerry_cloud.runs import Variant, VariantReport
from skerry_cloud.workloads import RESIDUAL, Examples, Workload
from skerry_shared import sketch
from skerry_shared.errors import ConfigError, GateError
from skerry_shared.release import Channel

GOLDEN = 32
BASELINE_MIN, BASELINE_MAX = 200, 4000  # rows: enough for 16 bins, and no more than a few seconds of answering
SERIES = 2000  # rows in their order: what follows what
CORRELATED = 0.2  # autocorrelation at lag 1 above which values cannot be taken for independent
REFERENCE_MIN = 30  # rows: with fewer, 16 bins say next to nothing

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
    """What every variant of a run is measured on: test and baseline examples, examples in their order, golden
    inputs, float32's test accuracy and golden scores, and the budget in points."""

    workload: Workload
    test: Examples
    baseline: NDArray[Any]
    series: NDArray[Any]
    references: dict[str, NDArray[Any]]
    golden: NDArray[Any]
    accuracy: float
    scores: NDArray[np.float32]
    max_drop: float


def trial(workload: Workload, rows: Rows, source: Path, max_drop: float) -> Trial:
    """Choose the examples, and let the float32 model at ``source`` answer them."""
    test, inputs = rows.of(TEST).examples, rows.examples.inputs
    golden = test.inputs[golden_rows(test.labels)]
    model = OnnxModel(source)
    return Trial(
        workload=workload,
        test=test,
        baseline=inputs[baseline_rows(rows.split, rows.source)],
        series=inputs[rows.source == REFERENCE][:SERIES],
        references={source: inputs[places] for source, places in reference_rows(rows.split, rows.source).items()},
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
    baseline, references = _channels(trial, model)
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
        baseline=baseline,
        references=references,
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


def _channels(trial: Trial, model: OnnxModel) -> tuple[tuple[Channel, ...], dict[str, tuple[Channel, ...]]]:
    """Baseline and references; the bins are cut over all of them, so that they tell each from the other.

    Raises ConfigError for a monitor whose values follow from the ones before, unless its mode says so.
    """

    def values(inputs: NDArray[Any]) -> sketch.Floats:
        answers = model.run(inputs)
        return sketch.channel_values(answers.scores, answers.monitors)

    healthy, changed = values(trial.baseline), {source: values(rows) for source, rows in trial.references.items()}
    names = sketch.channel_names(trial.workload.monitors)
    bins = sketch.baseline(names, np.concatenate([healthy, *changed.values()]), len(trial.workload.labels))
    bins = with_residuals(trial.workload, bins, model.run(trial.series).monitors)
    counted = {source: sketch.recount(bins, rows) for source, rows in changed.items()}
    found = {source: _lagged_from(bins, channels) for source, channels in counted.items()}
    return _lagged_from(bins, sketch.recount(bins, healthy)), found


def with_residuals(workload: Workload, channels: Sequence[Channel], series: NDArray[np.float32]) -> tuple[Channel, ...]:
    """The channels, those of mode "residual" made from ``series``: monitors in the order of time (n × M)."""
    made = list(channels)
    for place, name in enumerate(workload.monitors):
        values = series[:, place].astype(np.float64)
        if workload.modes.get(name) == RESIDUAL:
            made[place] = sketch.residual(name, values)
        elif (found := sketch.autocorrelation(values)) > CORRELATED:
            raise ConfigError(
                f"{workload.name}: monitor {name!r}: values follow the ones before (autocorrelation {found:.2f}, "
                f'{CORRELATED} at most may be). Say modes = {{"{name}": "{RESIDUAL}"}} in the workload, to watch what '
                "the one before does not foretell; or shuffle examples() if their order means nothing"
            )
    return tuple(made)


def _lagged_from(bins: Sequence[Channel], channels: Sequence[Channel]) -> tuple[Channel, ...]:
    """A residual needs neighbours in time, which no chosen rows are: its counts are those of the series."""
    return tuple(made if made.lag else channel for made, channel in zip(bins, channels, strict=True))


def _write_golden(variant: Variant, name: str, inputs: NDArray[Any], answers: Answers) -> None:
    for side, arrays in (("in", {name: inputs}), ("out", {"scores": answers.scores, "monitors": answers.monitors})):
        folder = variant.golden(side)
        folder.mkdir(parents=True, exist_ok=True)
        for tensor, array in arrays.items():
            np.save(folder / f"{tensor}.npy", array, allow_pickle=False)


def _spread(places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return places[np.linspace(0, len(places) - 1, min(count, len(places))).astype(np.int64)]
