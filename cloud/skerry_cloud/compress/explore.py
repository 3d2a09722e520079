"""The search for one kind of device: make, measure, halve, ask the gates. What to do next is decided in ``search``.

There is no state but what is on disk: every model made and every figure measured is kept beside it, so that a search
that was killed takes the same decisions again, at once, up to where it was.
"""

import dataclasses
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skerry_cloud import passes, runs
from skerry_cloud.adapters import models
from skerry_cloud.compress import gates, golden, graphs
from skerry_cloud.compress.make import Kitchen
from skerry_cloud.compress.measure import Exam
from skerry_cloud.compress.search import ETA, front, point, preferred, rungs, shares, survivors
from skerry_cloud.compress.study import Figures, Goal, Search, Trial
from skerry_cloud.compress.timing import in_turns
from skerry_cloud.job import Progress, Report
from skerry_cloud.passes import SUFFIX, Blame, Blaming, Recipe
from skerry_shared.errors import ModelError
from skerry_shared.release import Kind

WEIGHED = "figures.json"
MENDING, EXPORT = "qat", "onnx"  # passes
FINALISTS = 4  # that come to the gates; the more there are, the surer each must be


@dataclass(frozen=True)
class Weighed:
    """What was measured of a step's model, and how many seconds that took."""

    figures: Figures
    seconds: float


class Explorer:
    """Searches for kinds of devices, one after the other; they share what is made and the time that there is."""

    def __init__(self, kitchen: Kitchen, exam: Exam, goal: Goal, report: Report, spent: dict[str, float]) -> None:
        """``spent``: seconds, by the folder of what they were spent on; of all searches of one study."""
        self._kitchen, self._exam, self._goal, self._report = kitchen, exam, goal, report
        self._spent = spent

    def search(self, kind: Kind, profiles: Sequence[str], recipes: Sequence[Recipe]) -> Search:
        """Try the recipes and choose one. Where none passes, ``chosen`` is empty and ``reason`` says why."""
        trials = list(self._climb(kind, [recipe for recipe in recipes if self._kitchen.can(recipe)]))
        made = {trial.recipe: trial.figures for trial in trials if trial.figures}
        if not made:
            reason = trials[-1].error if trials else "no recipe starts from what this run has"
            return Search(kind, tuple(profiles), tuple(trials), (), "", reason)
        raced = self._race(_latest(trials))
        judged = self._judge(raced)
        done = tuple(judged.get(trial.recipe, trial) for trial in trials)
        chosen = next((name for name, trial in judged.items() if trial.passed), "")
        best = front({name: point(figures) for name, figures in made.items()})
        return Search(kind, tuple(profiles), done, tuple(best), chosen, self._reason(judged, chosen))

    def _climb(self, kind: Kind, recipes: Sequence[Recipe]) -> Iterator[Trial]:
        """Rung after rung; what would take longer than is left, by all that is known, is passed over."""
        alive, costs, known = list(recipes), Costs(), dict[str, Figures]()
        for rung, share in enumerate(shares(self._rungs(recipes))):
            found = dict[str, Figures]()
            efforts = {passes.spell(recipe): passes.cut(recipe, share) for recipe in alive}
            self._kitchen.ahead(self._certain(efforts, costs))
            for place, recipe in enumerate(alive, start=1):
                text = passes.spell(recipe)
                small = efforts[text]
                if self._needless(recipe, known) or not self._affordable(costs.expected(text, small)):
                    continue
                before = self.seconds
                trial = self._try(kind, small, rung)
                costs.note(text, small, trial, self.seconds - before)
                self._report(Progress(f"{kind.name} rung {rung + 1}", place, len(alive), _note(trial)))
                yield trial
                if trial.figures:
                    known[text] = trial.figures
                if trial.figures and passes.epochs(recipe):
                    found[text] = trial.figures
            going = survivors(found, self._goal)
            alive = [recipe for recipe in alive if passes.spell(recipe) in going]

    @property
    def seconds(self) -> float:
        """Spent so far, in this life and in earlier ones."""
        return sum(self._spent.values())

    def _rungs(self, recipes: Sequence[Recipe]) -> int:
        """One without a limit of time: there is nothing to save."""
        most = max((passes.epochs(recipe) for recipe in recipes), default=0)
        return rungs(most) if self._goal.minutes else 1

    def _affordable(self, seconds: float) -> bool:
        limit = self._goal.minutes * 60
        return not limit or not self._spent or self.seconds + seconds < limit

    def _certain(self, efforts: Mapping[str, Recipe], costs: "Costs") -> list[Recipe]:
        """What will be tried on this rung, as far as that can be said before it."""
        return [
            small
            for text, small in efforts.items()
            if small == _unmended(small) and self._affordable(costs.expected(text, small))
        ]

    def _needless(self, recipe: Recipe, known: Mapping[str, Figures]) -> bool:
        """Would it mend what is not broken?"""
        before = known.get(passes.spell(_unmended(recipe)))
        return recipe != _unmended(recipe) and before is not None and before.loss_bound <= self._goal.max_drop

    def _try(self, kind: Kind, recipe: Recipe, rung: int) -> Trial:
        text = passes.spell(recipe)
        try:
            model, lineage = self._kitchen.make(recipe)
            _admit(kind, model)
            figures = self._weigh(recipe, self._twin(kind, recipe))
        except ModelError as error:
            return Trial(text, kind, rung, (), None, error=str(error))
        return Trial(text, kind, rung, lineage, figures)

    def _twin(self, kind: Kind, recipe: Recipe) -> Recipe:
        """What can be timed here in its place."""
        return recipe if kind.arch == platform.machine() else passes.retarget(recipe, platform.machine())

    def _weigh(self, recipe: Recipe, twin: Recipe) -> Figures:
        (model, lineage), (timed, _) = self._kitchen.make(recipe), self._kitchen.make(twin)
        for length, made in enumerate(lineage, start=1):
            self._spent[self._kitchen.place(recipe[:length]).name] = made.seconds
        path, start = model.with_name(WEIGHED), time.monotonic()
        if not path.is_file():
            figures = self._exam.weigh(model, timed, passes.spell(twin))
            runs.write(path, Weighed(figures, time.monotonic() - start))
        weighed = runs.read(Weighed, path)
        self._spent[str(path)] = weighed.seconds
        return weighed.figures

    def _race(self, pool: Mapping[str, Trial]) -> dict[str, Trial]:
        """The best ones, timed once more and all in turns, because what differs by little was measured apart."""
        best = self._preferred(pool)[: 2 * FINALISTS]
        files = [self._kitchen.make(passes.parse(_figures(pool[name]).timed))[0] for name in best]
        times = in_turns(
            [models.load(path) for path in (*files, self._exam.champion)], self._exam.pool.inputs[: golden.COUNT]
        )
        return {name: _timed(pool[name], ours, times[-1]) for name, ours in zip(best, times, strict=False)}

    def _judge(self, pool: Mapping[str, Trial]) -> dict[str, Trial]:
        """The finalists with what the gates say, most preferred first."""
        finalists = self._preferred(pool)[:FINALISTS]
        return {name: self._judged(pool[name], gates.ALPHA / len(finalists)) for name in finalists}

    def _judged(self, trial: Trial, alpha: float) -> Trial:
        recipe = passes.parse(trial.recipe)
        evidence = self._exam.evidence(self._kitchen.make(recipe)[0])
        verdicts = gates.judge(evidence, _figures(trial), self._goal, alpha)
        judged = dataclasses.replace(trial, verdicts=verdicts)
        return judged if judged.passed else dataclasses.replace(judged, blame=self._blame(recipe))

    def _blame(self, recipe: Recipe) -> tuple[Blame, ...]:
        """By the last of its passes that can tell."""
        for length in range(len(recipe), 0, -1):
            step, before = recipe[length - 1], recipe[: length - 1]
            if isinstance(step, Blaming):
                source = self._kitchen.make(before)[0] if before else self._kitchen.source(recipe)
                return step.blame(source, self._kitchen.material)
        return ()

    def _preferred(self, pool: Mapping[str, Trial]) -> list[str]:
        found = {name: _figures(trial) for name, trial in pool.items()}
        return preferred(found, self._goal)

    def _reason(self, judged: Mapping[str, Trial], chosen: str) -> str:
        if chosen:
            figures, float_ = _figures(judged[chosen]), self._exam.figures
            quicker, smaller = 1 / figures.latency_ratio, float_.model_bytes / figures.model_bytes
            return (
                f"the fastest that passes every gate: {figures.latency_ms:.3f} ms ({quicker:.1f} × as fast as float), "
                f"{figures.model_bytes / 1024:.0f} KB ({smaller:.1f} × smaller)"
            )
        if not judged:
            return "nothing that was made keeps to the limits of size and latency"
        return "; ".join(complaint(next(iter(judged.values()))))


def complaint(trial: Trial) -> list[str]:
    """Why it did not pass: each gate that failed, and the operators to blame."""
    failed = [f"{verdict.gate}: {verdict.reason}" for verdict in trial.verdicts if not verdict.passed]
    worst = ", ".join(f"{blame.operator} ({blame.type}) {blame.harm:.2g}" for blame in trial.blame[:3])
    blamed = [f"operators that change the scores most: {worst}"] if worst else []
    return [f"{trial.recipe} did not pass", *failed, *blamed]


class Costs:
    """Seconds that recipes took on the rung before, and an epoch of the slowest training."""

    def __init__(self) -> None:
        self._of, self._pace = dict[str, float](), 0.0

    def expected(self, text: str, small: Recipe) -> float:
        """What the recipe of this text, of which ``small`` is to be tried, will take at least."""
        return max(self._of.get(text, 0.0) * ETA, self._pace * passes.epochs(small))

    def note(self, text: str, small: Recipe, trial: Trial, seconds: float) -> None:
        """That is what it took."""
        self._of[text] = seconds
        for step, made in zip(small, trial.lineage, strict=False):  # a recipe that broke has no lineage
            if epochs := passes.epochs((step,)):
                self._pace = max(self._pace, made.seconds / epochs)


def _unmended(recipe: Recipe) -> Recipe:
    """The same without quantisation-aware training; what is left of the export alone is the champion's own."""
    rest = tuple(step for step in recipe if step.name != MENDING)
    return rest[1:] if rest != recipe and rest[0].name == EXPORT else rest


def _admit(kind: Kind, model: Path) -> None:
    if kind.precision == "float32" and model.suffix == SUFFIX["onnx"] and graphs.integers(graphs.load(model)):
        raise ModelError(f"computes with integers, but {kind.name} wants floating point")


def _latest(trials: Sequence[Trial]) -> dict[str, Trial]:
    return {trial.recipe: trial for trial in trials if trial.figures}


def _figures(trial: Trial) -> Figures:
    assert trial.figures, trial.recipe
    return trial.figures


def _timed(trial: Trial, ours: float, champion: float) -> Trial:
    return dataclasses.replace(
        trial, figures=dataclasses.replace(_figures(trial), latency_ms=ours, latency_ratio=ours / champion)
    )


def _note(trial: Trial) -> str:
    if not trial.figures:
        return f"{trial.recipe}: {trial.error}"
    figures = trial.figures
    said = f"accuracy {figures.accuracy:.4f}, {figures.model_bytes / 1024:.0f} KB, {figures.latency_ms:.3f} ms"
    return f"{trial.recipe}: {said}"
