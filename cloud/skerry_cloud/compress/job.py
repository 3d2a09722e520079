"""Compression as a job. Adds variants to a run, see ``runs``.

One variant for each distinct kind of device among the profiles. A variant has a report only if it passed its gates.
"""

import shutil
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from skerry_cloud import datasets, runs, workloads
from skerry_cloud.compress.measure import calibration_rows, measure, trial
from skerry_cloud.compress.quantise import quantise
from skerry_cloud.datasets import TRAIN
from skerry_cloud.job import Progress, Report
from skerry_cloud.runs import Variant
from skerry_cloud.specs import CompressSpec
from skerry_shared import profiles
from skerry_shared.errors import ConfigError

CALIBRATION = 512  # inputs: the ranges of activations no longer change beyond some hundreds


def work(spec: CompressSpec, report: Report) -> None:
    """Make and judge a variant for each kind of device. Raises GateError at the first that is not good enough."""
    workload = workloads.load(spec.workload, spec.folder)
    kinds = kinds_of(spec.profiles)
    report(Progress("data", 0, 1))
    version = datasets.open_version(spec.datasets, spec.dataset)
    rows = version.read()
    max_drop = workload.max_drop if spec.max_drop is None else spec.max_drop
    trials = trial(workload, rows, spec.run / runs.MODEL, max_drop)
    train = rows.of(TRAIN)
    calibration = train.examples.inputs[calibration_rows(version.recent(train), CALIBRATION)]
    report(Progress("data", 1, 1, f"float32 accuracy {trials.accuracy:.4f}"))
    for done, (precision, arch) in enumerate(kinds, start=1):
        variant = _fresh(runs.variant(spec.run, precision, arch))
        _make(spec.run / runs.MODEL, variant, precision, arch, calibration)
        measured = measure(trials, variant, precision, arch)
        runs.write(variant.folder / runs.REPORT, measured)
        figures = f"accuracy {measured.accuracy:.4f}, {measured.model_bytes} bytes, {measured.latency_ms:.3f} ms"
        report(Progress("compress", done, len(kinds), f"{precision}-{arch}: {figures}"))


def kinds_of(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """The distinct (precision, arch) of these profiles. Raises ConfigError if there are none."""
    if not names:
        raise ConfigError("compress: profiles: name at least one")
    loaded = [profiles.load(name) for name in names]
    return sorted({(profile.precision, profile.arch) for profile in loaded})


def _fresh(variant: Variant) -> Variant:
    """An empty folder: what an earlier attempt left must not be taken for this one's."""
    shutil.rmtree(variant.folder, ignore_errors=True)
    variant.folder.mkdir(parents=True)
    return variant


def _make(source: Path, variant: Variant, precision: str, arch: str, calibration: NDArray[Any]) -> None:
    if precision == "int8":
        quantise(source, variant.model, arch, calibration)
    else:
        shutil.copyfile(source, variant.model)
