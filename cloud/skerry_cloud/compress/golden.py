"""Golden inputs of a model, chosen so that they tell a fault from another machine's kernels, and how far to trust them.

Kernels add in different orders. Where a value lies on the boundary of two integers, one rounds it up and another down,
and that step may move a score by hundredths. Which inputs hang on such a hair is measured and not guessed: all weights
and scales that are not integers are nudged, at random, by little more than kernels differ by. (The same answers moved
under emulated Arm cores and older x86 ones, by the same amounts.) Of the steady inputs, those are taken that the model
is least sure of: there a fault shows most. Each label has its turn.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from skerry_cloud.adapters import litert_model, models
from skerry_cloud.adapters.models import Model
from skerry_cloud.adapters.onnx_model import Answers
from skerry_cloud.workloads import Examples
from skerry_shared.golden import apart

COUNT = 32
POOL = 256  # inputs that they are chosen from
NUDGES, NUDGE = 8, 1e-5  # how often, and how far relatively; kernels were seen to differ by 1e-6
FLOOR = 1e-3  # of the tolerance: float kernels differ by 1e-6 a score, and what is wrong by much more
MARGIN = 4.0  # tolerance over what was seen to move
LIMIT = 0.0125  # what moves further is no known answer

Random = np.random.Generator
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """Which inputs of a pool, the model's answers to them, and by how much these were seen to move."""

    rows: NDArray[np.int64]
    answers: Answers
    moved: float

    @property
    def tolerance(self) -> float:
        """By how much another device's answers may differ."""
        return max(FLOOR, MARGIN * self.moved)

    @property
    def reason(self) -> str:
        """Why by that."""
        return f"{MARGIN:g} × {self.moved:.2g}, seen with plain kernels and nudged numbers; at least {FLOOR:g}"


def choose(model: Path, pool: Examples, count: int = COUNT) -> Chosen:
    """``count`` of these examples. Raises ModelError if the model cannot be run."""
    answers = models.load(model).run(pool.inputs)
    moved = np.max([_moved(answers, other.run(pool.inputs)) for other in _others(model)], axis=0)
    rows = pick(pool.labels, moved, _sureness(answers.scores), count)
    return Chosen(rows, Answers(answers.scores[rows], answers.monitors[rows]), float(moved[rows].max()))


def pick(labels: NDArray[np.int64], moved: Floats, sureness: Floats, count: int) -> NDArray[np.int64]:
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


def _others(model: Path) -> Iterator[Model]:
    """The same model as other machines may compute it."""
    yield models.load(model, optimised=False)
    random, nudge = np.random.default_rng(0), NUDGE_FILE[model.suffix]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(NUDGES):
            path = Path(folder, model.name)
            nudge(model, path, random)
            yield models.load(path)


def nudged(values: NDArray[np.floating], random: Random) -> NDArray[np.floating]:
    """All up or all down by ``NUDGE``, or by the precision of their type where that is coarser."""
    step = max(NUDGE, float(np.finfo(values.dtype).eps))
    moved: NDArray[np.floating] = (values * (1 + step * random.choice([-1.0, 1.0]))).astype(values.dtype)
    return moved


def _nudge_onnx(source: Path, target: Path, random: Random) -> None:
    """Scales and weights; other single numbers are exponents and the like, which are exact."""
    model = onnx.load(source)
    scales = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and (values.ndim or tensor.name in scales):
            tensor.CopyFrom(numpy_helper.from_array(nudged(values, random), tensor.name))
    onnx.save(model, target)


def _nudge_tflite(source: Path, target: Path, random: Random) -> None:
    """Equal scales stay equal: some operators rely on it."""
    model, seen = litert_model.read(source), dict[bytes, NDArray[np.floating]]()
    for tensor in model.subgraphs[0].tensors:
        if tensor.quantization is not None and tensor.quantization.scale is not None:
            scales = np.asarray(tensor.quantization.scale, np.float32)
            tensor.quantization.scale = seen.setdefault(scales.tobytes(), nudged(scales, random))
    litert_model.write(model, target)


NUDGE_FILE: Mapping[str, Callable[[Path, Path, Random], None]] = {".onnx": _nudge_onnx, ".tflite": _nudge_tflite}


def _moved(answers: Answers, others: Answers) -> Floats:
    """The largest difference of an output, for each input; not a number counts as infinite."""
    scores, monitors = apart(others.scores, answers.scores), apart(others.monitors, answers.monitors)
    return np.asarray(np.concatenate([scores, monitors], axis=1).max(axis=1))


def _sureness(scores: NDArray[np.float32]) -> Floats:
    """How far the best score is above the second."""
    best = np.sort(scores.astype(np.float64), axis=1)
    return np.asarray(best[:, -1] - best[:, -2])
