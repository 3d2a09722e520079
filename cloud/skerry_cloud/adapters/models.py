"""Opens a model file to judge it, by what its name ends in; see ``passes`` for the forms."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from skerry_cloud.adapters.litert_model import LiteRtModel
from skerry_cloud.adapters.onnx_model import Answers, OnnxModel
from skerry_shared.errors import ModelError


class Model(Protocol):
    """A loaded model; one thread, every foreign error a ModelError."""

    def run(self, inputs: NDArray[Any], batch: int = 256) -> Answers:
        """Answers to all inputs (n × raw shape), ``batch`` at a time."""


READERS: Mapping[str, Callable[[Path], Model]] = {".onnx": OnnxModel, ".tflite": LiteRtModel}


def load(path: Path) -> Model:
    """The model in this file. Raises ModelError if it cannot be loaded."""
    if path.suffix not in READERS:
        raise ModelError(f"{path.name}: not a model that can be judged here; known: {', '.join(READERS)}")
    return READERS[path.suffix](path)
