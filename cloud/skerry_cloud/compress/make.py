"""From a recipe to a model, each step made once: a step's folder is named by all that its model depends on.

    <study>/steps/<digest>/model.<pt|onnx|tflite>
    <study>/steps/<digest>/made.json                 a ``Made``, written last: where it is, the model is whole

So recipes share what they have in common, and after a kill nothing is made twice.
"""

import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from skerry_cloud import passes, runs
from skerry_cloud.compress.study import Made
from skerry_cloud.passes import SUFFIX, Form, Material, Recipe
from skerry_shared import __version__
from skerry_shared.errors import ModelError

MADE = "made.json"


def place(study: Path, seed: int, recipe: Recipe) -> Path:
    """The folder of a recipe's last step."""
    text = f"{__version__} {seed} {passes.spell(recipe)}"
    return study / "steps" / hashlib.sha256(text.encode()).hexdigest()[:16]


class Kitchen:
    """Makes models of one run: ``material`` is what its passes get, ``folder`` the study's."""

    def __init__(self, run: Path, folder: Path, material: Material) -> None:
        self._sources: dict[Form, Path] = {
            "network": run / runs.WEIGHTS,
            "onnx": run / runs.MODEL,
            "tflite": run / runs.FILES["litert"],
        }
        self._folder, self.material = folder, material

    def ahead(self, recipes: Sequence[Recipe]) -> None:
        """These will be asked for soon: make them now where that saves time. Here it does not."""

    def has(self, recipe: Recipe) -> bool:
        """Is it made already?"""
        return (self.place(recipe) / MADE).is_file()

    def can(self, recipe: Recipe) -> bool:
        """Has the run what the recipe starts from? An imported one has no network."""
        return self.source(recipe).is_file()

    def source(self, recipe: Recipe) -> Path:
        """What the recipe starts from."""
        return self._sources.get(recipe[0].takes, Path())

    def make(self, recipe: Recipe) -> tuple[Path, tuple[Made, ...]]:
        """The recipe's model and its lineage, first step first. Raises ModelError, naming the step that failed."""
        source, lineage = self.source(recipe), list[Made]()
        for length, step in enumerate(recipe, start=1):
            folder = self.place(recipe[:length])
            model = folder / f"model{SUFFIX[step.gives]}"
            if not self.has(recipe[:length]):
                self._make(recipe[:length], source, model)
            lineage.append(runs.read(Made, folder / MADE))
            source = model
        return source, tuple(lineage)

    def place(self, recipe: Recipe) -> Path:
        """The folder of the recipe's last step."""
        return place(self._folder, self.material.seed, recipe)

    def _make(self, recipe: Recipe, source: Path, model: Path) -> None:
        shutil.rmtree(model.parent, ignore_errors=True)  # what a kill left
        model.parent.mkdir(parents=True)
        step, start = recipe[-1], time.monotonic()
        try:
            step(source, model, self.material)
            content = model.read_bytes()
        except (ModelError, FileNotFoundError) as error:
            raise ModelError(f"{passes.spell(recipe)}: {error}") from None
        seconds = time.monotonic() - start
        made = Made(passes.spell((step,)), step.gives, len(content), hashlib.sha256(content).hexdigest(), seconds)
        runs.write(model.parent / MADE, made)
