"""The folder of a run: what training leaves for compression, and compression for release.

    training.pt                    while it is trained: where to go on, after each epoch
    model.pt                       the trained weights; not of an imported model
    model.onnx                     raw input in; scores and monitors out; float32
    model.tflite                   in its place where such a file was imported
    imported/                      the file as it came, under its own name
    workload.json                  ``Declared``, so that a release needs none of the workload's code
    metrics.json                   ``Metrics``
    study/                         what compression tried: see ``compress.study``
    study/finalists/<kind>/<…>/    a ``Variant`` for each that passed the gates, while devices measure which is best
    variants/<kind>/               one for each ``Kind`` of device: ``Variant``
        model.onnx, model.tflite   whichever the kind's runtime takes
        calibration.cache          TensorRT's table of ranges, where the recipe made one
        golden/in/<input>.npy      known inputs
        golden/out/<output>.npy    what this very file answers to them
        report.json                ``VariantReport``
    verdict.json                   of a retraining: candidate against champion, see ``evaluate.compare``

A job writes its JSON file last: where that is, the rest is whole.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from skerry_shared.config import decode
from skerry_shared.errors import NotFoundError
from skerry_shared.files import write_durably
from skerry_shared.release import Channel, Field, Kind, TensorSpec

FILES = {"onnxruntime": "model.onnx", "litert": "model.tflite"}  # by runtime
WEIGHTS, MODEL, IMPORTED, TRAINING = "model.pt", "model.onnx", "imported", "training.pt"
TABLE = "calibration.cache"
DECLARED, METRICS, REPORT, VERDICT = "workload.json", "metrics.json", "report.json", "verdict.json"

T = TypeVar("T")


@dataclass(frozen=True)
class Declared:
    """What the workload said about itself when the run was trained; see ``Workload``."""

    name: str
    owner: str
    labels: tuple[str, ...]
    input: TensorSpec
    monitors: tuple[str, ...]
    fields: tuple[Field, ...] = ()


@dataclass(frozen=True)
class Training:
    """How training went.

    ``seconds`` of its loop, since it was last taken up; ``parity``: the largest difference of a score, export against
    PyTorch.
    """

    epochs: int
    epoch_size: int
    parameters: int
    seconds: float
    parity: float


@dataclass(frozen=True)
class Metrics:
    """How good a model is: the workload's metrics on the test split, of all of it and by group and source.

    Groups are reference and recent; ``recall`` is by label. What has no test rows is left out.
    """

    workload: str
    dataset: int
    dataset_sha256: str
    training: Training
    overall: dict[str, float]
    groups: dict[str, dict[str, float]]
    sources: dict[str, dict[str, float]]
    recall: dict[str, float]


@dataclass(frozen=True)
class VariantReport:
    """What was measured about one variant, against the float32 export.

    ``recipe`` made it, see ``passes``. ``drop`` in points of accuracy on the test split; ``parity`` is the largest
    difference of a golden score; ``latency_ms`` the median for one input on one thread of the machine that compressed.
    ``baseline`` is healthy traffic; ``references`` that of devices which the model was retrained for ("device:edge-1"),
    over the same bins.
    """

    kind: Kind
    recipe: str
    model_bytes: int
    accuracy: float
    drop: float
    parity: float
    latency_ms: float
    tolerance: float
    tolerance_reason: str
    baseline: tuple[Channel, ...]
    references: dict[str, tuple[Channel, ...]]


@dataclass(frozen=True)
class Variant:
    """Where a variant lies."""

    folder: Path
    kind: Kind

    @property
    def model(self) -> Path:
        """The model file."""
        return self.folder / FILES[self.kind.runtime]

    def golden(self, side: str) -> Path:
        """The folder of golden inputs (``in``) or outputs (``out``)."""
        return self.folder / "golden" / side

    def report(self) -> VariantReport:
        """What was measured. Raises NotFoundError if this variant was not made."""
        return read(VariantReport, self.folder / REPORT)


def model(run: Path) -> Path:
    """The run's own model, whichever form it has. Raises NotFoundError if there is none yet."""
    for name in FILES.values():
        if (run / name).is_file():
            return run / name
    raise NotFoundError(f"run: no model in {run}")


def variant(run: Path, kind: Kind) -> Variant:
    """The variant of a run for devices of this kind, whether it was made yet or not."""
    return Variant(run / "variants" / kind.name, kind)


def finalist(run: Path, kind: Kind, recipe: str) -> Variant:
    """The variant that this recipe would be, whether it was made yet or not."""
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    return Variant(finalists(run) / kind.name / digest, kind)


def finalists(run: Path) -> Path:
    """The folder of all of them."""
    return run / "study/finalists"


def write(path: Path, value: Any) -> None:
    """Write a dataclass as JSON, durably."""
    write_durably(path, (json.dumps(dataclasses.asdict(value), indent=1) + "\n").encode())


def read(cls: type[T], path: Path) -> T:
    """Undo ``write``. Raises NotFoundError if the file is missing, ConfigError if it does not fit."""
    if not path.is_file():
        raise NotFoundError(f"run: no {path.name} in {path.parent}")
    return decode(cls, json.loads(path.read_bytes()), str(path))
