"""Healthy bundles to plant faults into: a model, really trained on digits, as a device gets it in float and INT8."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from skerry_cloud import datasets, runs, workloads
from skerry_cloud.compress.measure import calibration_rows, exam
from skerry_cloud.compress.passes.static import Int8
from skerry_cloud.datasets import REFERENCE, TRAIN, Rows
from skerry_cloud.job import Progress
from skerry_cloud.passes import Material
from skerry_cloud.release.package import package
from skerry_cloud.specs import TrainSpec
from skerry_cloud.train.job import work as train
from skerry_cloud.workloads import Workload
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
    material: Material
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
    tested, material = exam(workload, rows, run / runs.MODEL), _material(workload, rows)
    for precision, make_variant in ((FLOAT, shutil.copyfile), (INT8, partial(Int8(ARCH), material=material))):
        variant = runs.variant(run, Kind("onnxruntime", precision, ARCH))
        variant.folder.mkdir(parents=True)
        make_variant(run / runs.MODEL, variant.model)
        figures = tested.weigh(variant.model, variant.model, precision)
        runs.write(variant.folder / runs.REPORT, tested.report(variant, precision, figures))
        target = Target("generic-x86-64", ARCH, "onnxruntime", precision, 1 << 30)
        bundle.unpack(package(run, target, "digits", 1, Lineage(1, version.info.sha256, 1, "none")), folder / precision)
    return Healthy(folder, run / runs.MODEL, material, other / runs.MODEL)


def _material(workload: Workload, rows: Rows) -> Material:
    train = rows.of(TRAIN).examples
    recent = np.zeros(len(train), np.bool_)
    calibration = train.inputs[calibration_rows(recent, 512)]
    return Material(workload, train, recent, calibration, teacher=_none, say=_none)


def _none(*_: Any) -> Any:
    raise NotImplementedError("nothing learns here")


def _ignore(_: Progress) -> None:
    pass
