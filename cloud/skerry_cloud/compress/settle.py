"""The last word on kinds whose finalists were measured on devices: a job that chooses again and releases.

What a device measured outranks what was measured here. One that no device answered for is taken only where there is
none that did and passed.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from statistics import geometric_mean

from skerry_cloud import runs
from skerry_cloud.compress import gates, study
from skerry_cloud.compress.explore import complaint
from skerry_cloud.compress.report import render
from skerry_cloud.compress.search import preferred
from skerry_cloud.compress.study import Answers, Figures, Goal, OnDevice, Search, Study, Trial, Verdict
from skerry_cloud.job import Report
from skerry_cloud.specs import SettleSpec
from skerry_shared.errors import GateError
from skerry_shared.files import write_durably

LEAST_MS = 1e-6  # no device is faster, whatever it says


def work(spec: SettleSpec, _: Report) -> None:
    """Choose, keep the record, release. Raises GateError where no finalist of a kind is left."""
    folder, answers = spec.run / study.FOLDER, {each.kind: each for each in spec.answers}
    before = runs.read(Study, folder / study.STUDY)
    searches = [
        settled(search, answers[search.kind], before.goal) if search.kind in answers else search
        for search in before.searches
    ]
    record = replace(before, searches=tuple(searches))
    runs.write(folder / study.STUDY, record)
    write_durably(folder / study.PAGE, render(record).encode())
    for search in searches:
        if search.kind in answers:
            _release(spec.run, search)
    shutil.rmtree(runs.finalists(spec.run))


def settled(search: Search, answers: Answers, goal: Goal) -> Search:
    """The search with what devices said, and the choice that follows from it. Pure."""
    finalists = {
        trial.recipe: _heard(trial, answers.found.get(trial.recipe, ()), goal)
        for trial in search.trials
        if trial.passed
    }
    passed = {name: trial for name, trial in finalists.items() if trial.passed}
    measured = {name: trial for name, trial in passed.items() if trial.devices}
    chosen = next(iter(_order(measured) or _order(passed)), "")
    trials = tuple(finalists.get(trial.recipe, trial) for trial in search.trials)
    return replace(search, trials=trials, chosen=chosen, reason=_reason(search, finalists, chosen, answers.silent))


def _heard(trial: Trial, found: Sequence[OnDevice], goal: Goal) -> Trial:
    """Judged by the devices' latencies, or where none answered by the one measured here."""
    limit = goal.max_latency_ms
    verdicts = [_on_device(device, rows, limit) for device, rows in _by_device(found).items()]
    if not found and limit is not None:
        verdicts = [gates.latency(_figures(trial), limit)]
    return replace(trial, verdicts=(*trial.verdicts, *verdicts), devices=tuple(found))


def _on_device(device: str, rows: Sequence[OnDevice], limit: float | None) -> Verdict:
    best, faults = _best(rows), "; ".join(f"{row.provider} {row.fault}".strip() for row in rows if row.fault)
    value = best.latency_ms if best else 0.0
    passed = best is not None and (limit is None or value <= limit)
    said = f"{value:.3g} ms on {best.provider}" if best else "cannot run"
    allowed = f", at most {limit:g} ms" if limit is not None else ""
    reason = f"{said}{allowed}{f'; {faults}' if faults else ''} ({rows[0].profile})"
    return Verdict("device", device, passed, value, value, limit or 0.0, 0, reason)


def _order(pool: Mapping[str, Trial]) -> list[str]:
    """Recipes, the best first: by latencies on devices where there are any."""
    found = {name: _figures(trial) for name, trial in pool.items()}
    times = {name: _times(trial) for name, trial in pool.items()}
    quickest = {device: min(each.get(device, time) for each in times.values()) for device, time in _all(times)}
    for name, each in times.items():
        if each:
            slowness = geometric_mean(time / quickest[device] for device, time in each.items())
            found[name] = replace(found[name], latency_ratio=slowness)
    anything = Goal(max_drop=float("inf"), max_slice_drop=0.0)  # the gates have spoken already
    return preferred(found, anything)


def _all(times: Mapping[str, Mapping[str, float]]) -> Iterable[tuple[str, float]]:
    return (item for each in times.values() for item in each.items())


def _times(trial: Trial) -> dict[str, float]:
    """Milliseconds by device."""
    return {
        device: max(best.latency_ms, LEAST_MS)
        for device, rows in _by_device(trial.devices).items()
        if (best := _best(rows))
    }


def _by_device(rows: Sequence[OnDevice]) -> dict[str, list[OnDevice]]:
    name = attrgetter("device")
    return {device: list(each) for device, each in groupby(sorted(rows, key=name), name)}


def _best(rows: Sequence[OnDevice]) -> OnDevice | None:
    return min((row for row in rows if not row.fault), key=attrgetter("latency_ms"), default=None)


def _reason(search: Search, finalists: Mapping[str, Trial], chosen: str, silent: str) -> str:
    if not chosen:
        return "; ".join(complaint(next(iter(finalists.values()))))
    trial, rest = finalists[chosen], f"; {silent}" if silent else ""
    if not trial.devices:
        figures = _figures(trial)
        here = search.reason if chosen == search.chosen else f"the fastest here: {figures.latency_ms:.3f} ms"
        return f"{here}{rest}"
    where = ", ".join(f"{verdict.subject} {verdict.reason}" for verdict in trial.verdicts if verdict.gate == "device")
    size = f"{_figures(trial).model_bytes / 1024:.0f} KB"
    return f"the fastest on devices of all that pass every gate: {where}; {size}{rest}"


def _figures(trial: Trial) -> Figures:
    assert trial.figures
    return trial.figures


def _release(run: Path, search: Search) -> None:
    """Put the chosen finalist where releases take it from."""
    variant = runs.variant(run, search.kind)
    shutil.rmtree(variant.folder, ignore_errors=True)
    if not search.chosen:
        raise GateError(f"{search.kind.name}: {search.reason}")
    shutil.copytree(runs.finalist(run, search.kind, search.chosen).folder, variant.folder)
