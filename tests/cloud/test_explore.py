"""What the search does with its time, its limits and its finalists; models and clocks are made up."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skerry_cloud import passes
from skerry_cloud.compress import explore
from skerry_cloud.compress.explore import Explorer
from skerry_cloud.compress.gates import Evidence
from skerry_cloud.compress.study import Figures, Goal, Made, Search
from skerry_cloud.paired import Answered
from skerry_cloud.passes import Recipe
from skerry_shared.errors import ModelError
from skerry_shared.release import Kind

KIND = Kind("onnxruntime", "int8", platform.machine())
WIDTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass
class Kitchen:
    """A pass costs ten seconds for each epoch; what is narrower than a half is never right enough."""

    folder: Path
    made: list[str] = field(default_factory=list)
    broken: str = "nothing"
    announced: list[list[str]] = field(default_factory=list)

    def ahead(self, recipes: Sequence[Recipe]) -> None:
        self.announced.append([passes.spell(recipe) for recipe in recipes])

    def can(self, recipe: Recipe) -> bool:
        return True

    def place(self, recipe: Recipe) -> Path:
        return self.folder / passes.spell(recipe).replace("/", "")

    def make(self, recipe: Recipe) -> tuple[Path, tuple[Made, ...]]:
        text = passes.spell(recipe)
        if self.broken in text:
            raise ModelError(f"{text}: broken")
        self.made.append(text)
        self.place(recipe).mkdir(exist_ok=True)
        lineage = (Made(passes.spell((step,)), step.gives, 1, "", 10 * getattr(step, "epochs", 0)) for step in recipe)
        return self.place(recipe) / "model.tflite", tuple(lineage)


class Exam:
    champion = Path("champion")
    pool: Any = None

    def __init__(self) -> None:
        self.figures = figures(1.0)

    def weigh(self, model: Path, timed: Path, recipe: str) -> Figures:
        return figures(width_of(recipe), recipe)

    def evidence(self, model: Path) -> Evidence:
        right = np.ones(1000, bool)
        candidate = right if width_of(model.parent.name) >= 0.5 else ~right
        return Evidence(False, Answered(right, candidate), {}, {}, 0.0, 1.0)


def width_of(text: str) -> float:
    return next((width for width in WIDTHS if f"width={width}" in text), 1.0)


def figures(width: float, recipe: str = "") -> Figures:
    return Figures(0.9 + width / 100, 2.0 - width, int(width * 1000), width, width, recipe)


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(files: Sequence[Path], _: Any) -> list[float]:
        return [width_of(file.parent.name) for file in files]

    monkeypatch.setattr(explore, "in_turns", timed)
    monkeypatch.setattr("skerry_cloud.compress.explore.models.load", lambda path: path)


def search(kitchen: Kitchen, goal: Goal, epochs: int = 9) -> Search:
    recipes = [passes.parse(f"distil(width={width}, epochs={epochs})") for width in WIDTHS]
    exam = Exam()
    exam.pool = type("Pool", (), {"inputs": []})
    return Explorer(kitchen, exam, goal, lambda _: None, {}).search(KIND, ["p"], recipes)  # type: ignore[arg-type]


def test_a_third_climbs_each_rung_with_three_times_the_epochs(tmp_path: Path) -> None:
    found = search(Kitchen(tmp_path), Goal(2.0, 5.0, minutes=100))
    assert [sum(trial.rung == rung for trial in found.trials) for rung in range(4)] == [6, 2, 1, 0]
    assert [f"epochs={n}" in trial.recipe for n, trial in zip([1] * 6 + [3] * 2 + [9], found.trials, strict=True)] == [
        True
    ] * 9


def test_what_a_rung_will_try_is_announced_before_it(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    found = search(kitchen, Goal(2.0, 5.0, minutes=100))
    tried = [[trial.recipe for trial in found.trials if trial.rung == rung] for rung in range(3)]
    assert [sorted(texts) for texts in kitchen.announced] == [sorted(texts) for texts in tried]


def test_without_a_limit_of_time_everything_gets_its_whole_effort(tmp_path: Path) -> None:
    found = search(Kitchen(tmp_path), Goal(2.0, 5.0))
    assert [trial.rung for trial in found.trials] == [0] * 6
    assert all("epochs=9" in trial.recipe for trial in found.trials)


def test_the_time_is_kept_and_what_was_made_by_then_is_chosen_from(tmp_path: Path) -> None:
    found = search(Kitchen(tmp_path), Goal(2.0, 5.0, minutes=1.2))
    spent = sum(step.seconds for trial in found.trials for step in trial.lineage)
    assert spent <= 72
    assert found.chosen


@pytest.mark.parametrize("minutes", [0.01, 0.2, 0.9, 1.1, 1.6, 2.4, 3.9])
def test_the_time_is_overrun_by_the_first_training_alone(tmp_path: Path, minutes: float) -> None:
    found = search(Kitchen(tmp_path), Goal(2.0, 5.0, minutes=minutes))
    spent = sum(step.seconds for trial in found.trials for step in trial.lineage)
    assert 0 < spent <= max(minutes * 60, 10)


def test_the_fastest_that_passes_is_chosen(tmp_path: Path) -> None:
    found = search(Kitchen(tmp_path), Goal(2.0, 5.0))
    assert "width=0.5" in found.chosen
    failed = next(trial for trial in found.trials if "width=0.25" in trial.recipe)
    assert failed.verdicts and not failed.passed


@pytest.mark.parametrize(("max_drop", "tried"), [(1.5, False), (0.5, True)])
def test_integers_are_mended_only_where_they_lose_too_much(tmp_path: Path, max_drop: float, tried: bool) -> None:
    plain = "int8(arch='x86_64') + slim"
    recipes = [passes.parse(text) for text in (plain, f"qat(epochs=3) + onnx + {plain}")]
    exam = Exam()
    exam.pool = type("Pool", (), {"inputs": []})
    explorer = Explorer(Kitchen(tmp_path), exam, Goal(max_drop, 5.0), lambda _: None, {})  # type: ignore[arg-type]
    found = explorer.search(KIND, ["p"], recipes)  # integers lose 1.0 points at most
    assert any("qat" in trial.recipe for trial in found.trials) == tried


def test_a_recipe_that_breaks_stops_nobody_else(tmp_path: Path) -> None:
    found = search(Kitchen(tmp_path, broken="width=0.5"), Goal(2.0, 5.0))
    assert "width=0.75" in found.chosen
    assert next(trial.error for trial in found.trials if "width=0.5," in trial.recipe).endswith("broken")


def test_where_nothing_can_be_made_the_reason_says_why(tmp_path: Path) -> None:
    found = search(Kitchen(tmp_path, broken="distil"), Goal(2.0, 5.0))
    assert not found.chosen
    assert found.reason.endswith("broken")


def test_where_nothing_keeps_to_the_limits_the_reason_says_so(tmp_path: Path) -> None:
    found = search(Kitchen(tmp_path), Goal(2.0, 5.0, max_bytes=1))
    assert (found.chosen, found.reason) == ("", "nothing that was made keeps to the limits of size and latency")
