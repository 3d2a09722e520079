"""The port of compression's passes: what one is, and how a tuple of them makes a model.

A pass is a frozen dataclass whose fields are its options. Called with a model file, it writes another one. A recipe is
a tuple of passes; its text says all that the model depends on beside the study's ``Material``: equal text, equal model.

    distil(width=0.5, epochs=8) + prune(keep=0.7) + tune(epochs=4) + onnx + int8(arch='x86_64')

Passes are found by the entry point group ``skerry.passes``, under their ``name``, ours and a third party's alike;
``skerry_cloud.testing.check_pass`` says whether one keeps to the rules here.
"""

import ast
import dataclasses
import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.examples import Examples
from skerry_shared import plugins
from skerry_shared.config import decode
from skerry_shared.errors import ConfigError

if TYPE_CHECKING:  # it loads torch, which most passes do not need
    from skerry_cloud.workloads import Workload

GROUP = "skerry.passes"
JOINT = " + "

Form = Literal["network", "onnx", "tflite"]
SUFFIX: dict[Form, str] = {"network": ".pt", "onnx": ".onnx", "tflite": ".tflite"}

Say = Callable[[int, int, str], None]  # done steps, all steps, a figure worth showing


@dataclass(frozen=True)
class Material:
    """What all passes of a study work with.

    ``recent`` marks rows of ``train``. ``calibration``: typical raw inputs. ``teacher`` gives the scores (n × labels)
    of the float champion, the model that is compressed, for a view of ``train`` (see ``Workload.view``). ``say`` hears
    how far a pass is.
    """

    workload: "Workload"
    train: Examples
    recent: NDArray[np.bool_]
    calibration: NDArray[Any]
    teacher: Callable[[int], NDArray[np.float32]]
    say: Say
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Blame:
    """How much harm one operator does: the change of the scores (root mean square) if it alone is treated."""

    operator: str
    type: str
    harm: float


class Pass(Protocol):
    """A frozen dataclass. An int field called ``epochs`` is its effort, which a search may cut (see ``cut``)."""

    name: ClassVar[str]  # of its entry point
    takes: ClassVar[Form]
    gives: ClassVar[Form]

    def __call__(self, source: Path, target: Path, material: Material) -> None:
        """Make the file ``target`` of form ``gives`` from the file ``source`` of form ``takes``, which stays as it is.

        The same source, options and material give the same bytes. Raises ModelError if this model cannot be treated.
        """


@runtime_checkable
class Blaming(Protocol):
    """A pass that can tell which operators of its source suffer most from it."""

    def blame(self, source: Path, material: Material) -> tuple[Blame, ...]:
        """Worst first. Raises ModelError if this model cannot be treated."""


Recipe = tuple[Pass, ...]


def spell(recipe: Recipe) -> str:
    """The recipe's text, its name everywhere; ``parse`` undoes it."""
    return JOINT.join(map(_spell, recipe))


def parse(text: str) -> Recipe:
    """The recipe of this text. Raises ConfigError that names pass and option, or NotFoundError for no such pass."""
    recipe = tuple(_parse(part.strip()) for part in text.split(JOINT.strip()))
    check(recipe)
    return recipe


def check(recipe: Recipe) -> None:
    """Raises ConfigError where a pass does not take what the one before it gives."""
    for before, after in itertools.pairwise(recipe):
        if before.gives != after.takes:
            raise ConfigError(
                f"recipe: {spell(recipe)}: {before.name} gives {before.gives}, but {after.name} takes {after.takes}"
            )


def cut(recipe: Recipe, share: float) -> Recipe:
    """The recipe with so great a share of its effort, one epoch at least where there was one."""
    return tuple(_cut(step, share) for step in recipe)


def epochs(recipe: Recipe) -> int:
    """The recipe's effort."""
    return sum(getattr(step, "epochs", 0) for step in recipe)


def retarget(recipe: Recipe, arch: str) -> Recipe:
    """The recipe's twin for another architecture: what its passes' fields called ``arch`` say."""
    return tuple(_replace(step, arch=arch) if hasattr(step, "arch") else step for step in recipe)


def _cut(step: Pass, share: float) -> Pass:
    whole = getattr(step, "epochs", 0)
    return _replace(step, epochs=math.ceil(whole * share)) if whole else step


def _replace(step: Any, **changes: Any) -> Pass:
    made: Pass = dataclasses.replace(step, **changes)
    return made


def _spell(step: Pass) -> str:
    changed = [field for field in dataclasses.fields(step) if getattr(step, field.name) != field.default]  # type: ignore[arg-type]
    options = ", ".join(f"{field.name}={getattr(step, field.name)!r}" for field in changed)
    return f"{step.name}({options})" if options else step.name


def _parse(text: str) -> Pass:
    with suppress(SyntaxError, ValueError):
        call = ast.parse(text, mode="eval").body
        if isinstance(call, ast.Name):
            return _make(call.id, {})
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            return _make(call.func.id, {str(word.arg): ast.literal_eval(word.value) for word in call.keywords})
    raise ConfigError(f"recipe: {text!r} is not name or name(option=value, …), joined by '+'")


def _make(name: str, options: dict[str, Any]) -> Pass:
    made: Pass = decode(plugins.load(GROUP, name), options, f"recipe: {name}")
    return made
