"""Healthy bundles to plant faults into: one model, really trained on real digits, as a device gets it in float and INT8."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from skerry_cloud import datasets, runs, workloads
from skerry_cloud.compress.measure import calibration_rows, measure, trial
from skerry_cloud.compress.quantise import quantise
from skerry_cloud.datasets import REFERENCE, TRAIN
from skerry_cloud.job import Progress
from skerry_cloud.release.package import package
from skerry_cloud.specs import TrainSpec
from skerry_cloud.train.job import work as train
from skerry_shared import bundle
from skerry_shared.bundle import Bundle
from skerry_shared.release import Kind, Lineage, Target

FLOAT, INT8 = "float32", "int8"
ARCH = "x86_64"


@dataclass(frozen=True)
class Healthy:
    """Unpacked bundles by precision, what they were made of, and another training's model of the same form."""

    folder: Path
    source: Path
    calibration: NDArray[Any]
    other: Path

    def bundle(self, precision: str) -> Bundle:
        return bundle.load(self.folder / precision)


def make(folder: Path) -> Healthy:
    """Train twice (other seeds), quantise, measure, package, unpack: some ten seconds."""
    workload = workloads.load("digits", folder)
    examples = workload.examples()
    version = datasets.create(folder / "data", workload, examples, [REFERENCE] * len(examples), created=1.0)
    run, other = folder / "run", folder / "other"
    train(TrainSpec("digits", folder, folder / "data", 1, run), _ignore)
    train(TrainSpec("digits", folder, folder / "data", 1, other, seed=1, epochs=4), _ignore)
    rows = version.read()
    learned = rows.of(TRAIN)
    calibration = learned.examples.inputs[calibration_rows(version.recent(learned), 512)]
    trials = trial(workload, rows, run / runs.MODEL, workload.max_drop)
    for precision in (FLOAT, INT8):
        variant = runs.variant(run, Kind("onnxruntime", precision, ARCH))
        variant.folder.mkdir(parents=True)
        if precision == FLOAT:
            variant.model.write_bytes((run / runs.MODEL).read_bytes())
        else:
            quantise(run / runs.MODEL, variant.model, ARCH, calibration)
        runs.write(variant.folder / runs.REPORT, measure(trials, variant))
        target = Target("generic-x86-64", ARCH, "onnxruntime", precision, 1 << 30)
        bundle.unpack(package(run, target, "digits", 1, Lineage(1, version.info.sha256, 1, "none")), folder / precision)
    return Healthy(folder, run / runs.MODEL, calibration, other / runs.MODEL)


def _ignore(_: Progress) -> None:
    pass
