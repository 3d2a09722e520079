"""What a variant is worth, measured and not assumed, and which rows it is measured on.

Golden inputs go to the device with the answers of this very file. A device has other kernels, so its answers may differ
by rounding; ``TOLERANCE`` says by how much, and a file that exceeds it on this machine already, computed in two ways,
is not let out at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.adapters import models
from skerry_cloud.adapters.models import Model
from skerry_cloud.adapters.onnx_model import Answers
from skerry_cloud.compress import golden
from skerry_cloud.compress.gates import ALPHA, Evidence
from skerry_cloud.compress.study import Figures
from skerry_cloud.compress.timing import in_turns
from skerry_cloud.datasets import REFERENCE, TEST, TRAIN, VALIDATION, Rows
from skerry_cloud.paired import answered, loss_bound
from skerry_cloud.runs import Variant, VariantReport
from skerry_cloud.workloads import RESIDUAL, Examples, Workload
from skerry_shared import privacy, sketch
from skerry_shared.errors import ConfigError
from skerry_shared.golden import difference
from skerry_shared.release import Channel

BASELINE_MIN, BASELINE_MAX = 200, 4000  # rows: enough for 16 bins, and no more than a few seconds of answering
SERIES = 2000  # rows in their order: what follows what
CORRELATED = 0.2  # autocorrelation at lag 1 above which values cannot be taken for independent
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
class Exam:
    """What every candidate of a run is measured on. ``champion`` is the float model that it is compared with.
    ``series`` are examples in their order.

    Validation rows choose among candidates; test rows, which nothing was chosen by, judge.
    """

    workload: Workload
    champion: Path
    validation: Examples
    test: Examples
    baseline: NDArray[Any]
    series: NDArray[Any]
    references: dict[str, NDArray[Any]]
    pool: Examples  # that golden inputs are chosen from

    @cached_property
    def figures(self) -> Figures:
        """The champion's own."""
        return self.weigh(self.champion, self.champion, "the float model")

    @cached_property
    def _validated(self) -> NDArray[np.float32]:
        """The champion's scores for the validation rows."""
        return models.load(self.champion).run(self.validation.inputs).scores

    @cached_property
    def _float(self) -> "_Answered":
        return self._answer(self.champion)

    def weigh(self, model: Path, timed: Path, recipe: str) -> Figures:
        """What chooses. ``timed`` is run for the latency, in turns with the champion; ``recipe`` made it."""
        loaded = models.load(model)
        runner = loaded if timed == model else models.load(timed)
        ours, theirs = in_turns([runner, models.load(self.champion)], self.pool.inputs[: golden.COUNT])
        scores = loaded.run(self.validation.inputs).scores
        return Figures(
            accuracy=self._accuracy(scores, self.validation),
            loss_bound=self._loss_bound(scores),
            model_bytes=model.stat().st_size,
            latency_ms=ours,
            latency_ratio=ours / theirs,
            timed=recipe,
        )

    def _loss_bound(self, scores: NDArray[np.float32]) -> float:
        """In points; none where every score is the champion's but for rounding."""
        if difference("scores", scores, self._validated) <= golden.FLOOR:
            return 0.0
        found = answered(self.validation.labels, self._validated, scores)
        return loss_bound(found.won, found.lost, len(scores), ALPHA) * 100

    def evidence(self, model: Path) -> Evidence:
        """What judges."""
        labels, found = self.test.labels, self._answer(model)
        chosen = golden.choose(model, self.pool)
        return Evidence(
            same=difference("scores", found.clean, self._float.clean) <= golden.FLOOR,
            clean=answered(labels, self._float.clean, found.clean),
            slices=self.workload.slices(self.test),
            corrupted={
                name: answered(labels, self._float.corrupted[name], found.corrupted[name]) for name in found.corrupted
            },
            apart=chosen.moved,
            tolerance=golden.LIMIT,
        )

    def report(self, variant: Variant, recipe: str, figures: Figures) -> VariantReport:
        """Write the golden files of a variant whose model is there, and say what a release needs to know of it."""
        model = models.load(variant.model)
        chosen = golden.choose(variant.model, self.pool)
        inputs, answers = self.pool.inputs[chosen.rows], chosen.answers
        accuracy = self._accuracy(model.run(self.test.inputs).scores, self.test)
        baseline, references = _channels(self, model)
        _write_golden(variant, self.workload.input.name, inputs, answers)
        return VariantReport(
            kind=variant.kind,
            recipe=recipe,
            model_bytes=figures.model_bytes,
            accuracy=accuracy,
            drop=(self._accuracy(self._float.clean, self.test) - accuracy) * 100,
            parity=float(np.abs(answers.scores - models.load(self.champion).run(inputs).scores).max()),
            latency_ms=figures.latency_ms,
            tolerance=chosen.tolerance,
            tolerance_reason=chosen.reason,
            baseline=baseline,
            references=references,
        )

    def _answer(self, path: Path) -> "_Answered":
        model = models.load(path)
        spoiled = self.workload.corruptions(self.test.inputs)
        return _Answered(
            model.run(self.test.inputs).scores, {name: model.run(inputs).scores for name, inputs in spoiled.items()}
        )

    def _accuracy(self, scores: NDArray[np.float32], examples: Examples) -> float:
        return self.workload.metrics(scores, examples.labels)["accuracy"]


@dataclass(frozen=True)
class _Answered:
    """Scores for the test rows, as they are and corrupted."""

    clean: NDArray[np.float32]
    corrupted: dict[str, NDArray[np.float32]]


def exam(workload: Workload, rows: Rows, champion: Path) -> Exam:
    """Choose the examples. Golden ones go to every device, so of these there is no more than what may be kept."""
    test, inputs = rows.of(TEST).examples, rows.examples.inputs
    pool = test.take(golden.in_turn(test.labels, golden.POOL))
    return Exam(
        workload=workload,
        champion=champion,
        validation=rows.of(VALIDATION).examples,
        test=test,
        baseline=inputs[baseline_rows(rows.split, rows.source)],
        series=inputs[rows.source == REFERENCE][:SERIES],
        references={source: inputs[places] for source, places in reference_rows(rows.split, rows.source).items()},
        pool=replace(pool, inputs=privacy.treat(pool.inputs, workload.fields())),
    )


def _channels(exam: Exam, model: Model) -> tuple[tuple[Channel, ...], dict[str, tuple[Channel, ...]]]:
    """Baseline and references; the bins are cut over all of them, so that they tell each from the other.

    Raises ConfigError for a monitor whose values follow from the ones before, unless its mode says so.
    """

    def values(inputs: NDArray[Any]) -> sketch.Floats:
        answers = model.run(inputs)
        return sketch.channel_values(answers.scores, answers.monitors)

    healthy, changed = values(exam.baseline), {source: values(rows) for source, rows in exam.references.items()}
    names = sketch.channel_names(exam.workload.monitors)
    bins = sketch.baseline(names, np.concatenate([healthy, *changed.values()]), len(exam.workload.labels))
    bins = with_residuals(exam.workload, bins, model.run(exam.series).monitors)
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
            if array.shape[1:] == (0,):
                continue  # a workload that monitors nothing
            np.save(folder / f"{tensor}.npy", array, allow_pickle=False)


def _spread(places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return places[np.linspace(0, len(places) - 1, min(count, len(places))).astype(np.int64)]
