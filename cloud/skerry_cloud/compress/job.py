"""Compression as a job. Adds variants to a run, see ``runs``.

One variant for each distinct kind of device among the profiles, chosen by a study (see ``study``). A variant has a
report only if it passed its gates.
"""

import shutil
import time
from dataclasses import replace
from pathlib import Path

from skerry_cloud import datasets, passes, runs, workloads
from skerry_cloud.compress import study
from skerry_cloud.compress.cluster import ClusterKitchen
from skerry_cloud.compress.explore import Explorer
from skerry_cloud.compress.make import Kitchen
from skerry_cloud.compress.material import gather
from skerry_cloud.compress.measure import Exam, exam
from skerry_cloud.compress.menu import imported, menu, plain
from skerry_cloud.compress.passes import tensorrt
from skerry_cloud.compress.report import render
from skerry_cloud.compress.study import Goal, Search, Study, Trial
from skerry_cloud.compress.timing import machine
from skerry_cloud.job import Progress, Report
from skerry_cloud.passes import Recipe
from skerry_cloud.runs import Variant
from skerry_cloud.specs import CompressSpec, Wanted
from skerry_cloud.workloads import Workload
from skerry_shared import profiles
from skerry_shared.errors import ConfigError, GateError
from skerry_shared.files import write_durably
from skerry_shared.release import Kind


def work(spec: CompressSpec, report: Report) -> None:
    """Search for each kind of device, keep the record, release what passed. Raises GateError where nothing did."""
    version = datasets.open_version(spec.datasets, spec.dataset)
    workload = workloads.load(spec.workload, spec.folder, version.returned)
    kinds = kinds_of(spec.wanted.profiles)
    champion = runs.model(spec.run)
    recipes = {kind: _recipes(kind, spec.wanted, workload, champion) for kind in kinds}
    report(Progress("data", 0, 1))
    rows = version.read()
    tested, goal = exam(workload, rows, champion), _goal(spec.wanted, workload)
    report(Progress("data", 1, 1, f"float32 accuracy {tested.figures.accuracy:.4f} on validation rows"))
    material = gather(spec, workload, version, rows, report)
    kitchen = (
        ClusterKitchen(spec, material, report) if spec.ray else Kitchen(spec.run, spec.run / study.FOLDER, material)
    )
    asked, spent = {profiles.load(name).kind for name in spec.asked}, dict[str, float]()
    searches = []
    for kind, names in kinds.items():
        here = replace(goal, max_latency_ms=None) if kind in asked else goal  # there the devices' latencies decide
        searches.append(Explorer(kitchen, tested, here, report, spent).search(kind, names, recipes[kind]))
    record = Study(workload.name, spec.dataset, time.time(), machine(), goal, tested.figures, tuple(searches))
    runs.write(spec.run / study.FOLDER / study.STUDY, record)
    write_durably(spec.run / study.FOLDER / study.PAGE, render(record).encode())
    for search in searches:
        if search.kind in asked:
            _keep(spec, search, kitchen, tested)
        else:
            _release(spec, search, kitchen, tested)


def kinds_of(names: tuple[str, ...]) -> dict[Kind, list[str]]:
    """The distinct kinds of these profiles, with the profiles of each. Raises ConfigError if there are none."""
    if not names:
        raise ConfigError("compress: profiles: name at least one")
    kinds: dict[Kind, list[str]] = {}
    for name in sorted(set(names)):
        kinds.setdefault(profiles.load(name).kind, []).append(name)
    return dict(sorted(kinds.items()))


def _goal(wanted: Wanted, workload: Workload) -> Goal:
    max_drop = workload.max_drop if wanted.max_drop is None else wanted.max_drop
    return Goal(max_drop, workload.max_slice_drop, wanted.max_bytes, wanted.max_latency_ms, wanted.minutes)


def _recipes(kind: Kind, wanted: Wanted, workload: Workload, champion: Path) -> list[Recipe]:
    if wanted.recipes:
        return list(dict.fromkeys(passes.retarget(passes.parse(text), kind.arch) for text in wanted.recipes))
    if champion.suffix == ".tflite":
        return [imported(kind)]
    return menu(kind, workload) if wanted.minutes else [plain(kind)]


def _release(spec: CompressSpec, search: Search, kitchen: Kitchen, tested: Exam) -> None:
    """Put the chosen model where releases take it from; what an earlier study left is not to be taken for it."""
    variant = runs.variant(spec.run, search.kind)
    shutil.rmtree(variant.folder, ignore_errors=True)
    _fill(variant, _passed(search)[search.chosen], kitchen, tested)


def _keep(spec: CompressSpec, search: Search, kitchen: Kitchen, tested: Exam) -> None:
    """Put all that passed where devices' bundles are made from; ``settle`` has the last word."""
    for recipe, trial in _passed(search).items():
        variant = runs.finalist(spec.run, search.kind, recipe)
        shutil.rmtree(variant.folder, ignore_errors=True)
        _fill(variant, trial, kitchen, tested)


def _passed(search: Search) -> dict[str, Trial]:
    if not search.chosen:
        raise GateError(f"{search.kind.name}: {search.reason}")
    return {trial.recipe: trial for trial in search.trials if trial.passed}


def _fill(variant: Variant, trial: Trial, kitchen: Kitchen, tested: Exam) -> None:
    assert trial.figures
    variant.folder.mkdir(parents=True)
    shutil.copyfile(kitchen.make(passes.parse(trial.recipe))[0], variant.model)
    if ranges := tensorrt.table(variant.model):
        write_durably(variant.folder / runs.TABLE, ranges.encode())
    runs.write(variant.folder / runs.REPORT, tested.report(variant, trial.recipe, trial.figures))
