"""Golden inputs of a model, chosen so that they tell a fault from another machine's kernels, and how far to trust them.

Kernels add in different orders. Where a value lies on the boundary of two integers, one rounds it up and another down,
and that step may move a score by hundredths. Which inputs hang on such a hair is measured and not guessed: every scale
is nudged, at random, by a few times a float's precision. (The same answers moved under emulated Arm cores and older x86
ones, by the same amounts.) Of the steady inputs, those are taken that the model is least sure of: there a fault shows
most. Each label has its turn.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from skerry_cloud.adapters.onnx_model import Answers, OnnxModel
from skerry_shared.errors import GateError

COUNT = 32
POOL = 256  # inputs that they are chosen from
NUDGES, NUDGE = 8, 1e-5  # how often, and how far relatively; kernels were seen to differ by 1e-6
FLOOR = 1e-3  # of the tolerance: float kernels differ by 1e-6 a score, and what is wrong by much more
CEILING = 0.05  # what moves further is no known answer
MARGIN = 4.0  # tolerance over what was seen to move


@dataclass(frozen=True)
class Chosen:
    """Which inputs, the model's answers to them, by how much another device's may differ, and why by that."""

    rows: NDArray[np.int64]
    answers: Answers
    tolerance: float
    reason: str


def choose(model: Path, inputs: NDArray[Any], labels: NDArray[np.int64], count: int = COUNT) -> Chosen:
    """``count`` of these inputs. Raises GateError if the answers of any sane number of them hang on a rounding."""
    answers = OnnxModel(model).run(inputs)
    moved = np.max([_apart(answers, other.run(inputs)) for other in _others(model)], axis=0)
    rows = pick(labels, moved, _sureness(answers.scores), count)
    largest = float(moved[rows].max())
    tolerance = max(FLOOR, MARGIN * largest)
    if not tolerance <= CEILING:  # a NaN is over it too
        raise GateError(
            f"{model.parent.name}: golden answers move by {largest:.3g} when kernels round another way: devices would "
            f"not agree on the model; at most {CEILING / MARGIN:.3g} is allowed"
        )
    reason = f"{MARGIN:g} × {largest:.2g}, seen with plain kernels and nudged scales; at least {FLOOR:g}"
    return Chosen(rows, Answers(answers.scores[rows], answers.monitors[rows]), tolerance, reason)


def pick(
    labels: NDArray[np.int64], moved: NDArray[np.float64], sureness: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """Places of ``count`` inputs (fewer if there are not as many), each label in turn.

    Of a label, those first that moved by less than the tolerance's floor allows, the least sure before the others; then
    the rest, the steadier before the others.
    """
    order = np.lexsort((sureness, np.where(moved <= FLOOR / MARGIN, 0.0, moved)))
    return order[in_turn(labels[order], count)]


def in_turn(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Places of the first ``count``, each label in turn."""
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    return np.lexsort((labels, rank))[:count]


def _others(model: Path) -> Iterator[OnnxModel]:
    """The same model as other machines may compute it."""
    yield OnnxModel(model, optimised=False)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(NUDGES):
            path = Path(folder, model.name)
            onnx.save(nudged(onnx.load(model), random), path)
            yield OnnxModel(path)


def nudged(model: onnx.ModelProto, random: np.random.Generator) -> onnx.ModelProto:
    """The model with the scale of every quantised activation up or down by ``NUDGE``; one without any stays as it is."""
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            scale = numpy_helper.to_array(tensor)
            moved = (scale * (1 + NUDGE * random.choice([-1.0, 1.0]))).astype(scale.dtype)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    return model


def _apart(answers: Answers, others: Answers) -> NDArray[np.float64]:
    """The largest difference of an output, for each input; not a number counts as infinite."""
    pairs = ((answers.scores, others.scores), (answers.monitors, others.monitors))
    apart = np.max([np.abs(a.astype(np.float64) - b).max(axis=1, initial=0.0) for a, b in pairs], axis=0)
    return np.nan_to_num(apart, nan=np.inf)


def _sureness(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far the best score is above the second."""
    best = np.sort(scores.astype(np.float64), axis=1)
    return np.asarray(best[:, -1] - best[:, -2])
