"""Opens a model file to judge it, by what its name ends in; see ``passes`` for the forms."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.adapters.litert_model import LiteRtModel
from skerry_cloud.adapters.onnx_model import Answers, OnnxModel
from skerry_shared.errors import ModelError


class Model(Protocol):
    """A loaded model; one thread, every foreign error a ModelError."""

    def answer(self, inputs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores and monitors of one batch, with as little around it as can be: this is timed."""

    def run(self, inputs: NDArray[Any], batch: int = 256) -> Answers:
        """Answers to all inputs (n × raw shape), ``batch`` at a time."""


READERS: Mapping[str, Callable[..., Model]] = {".onnx": OnnxModel, ".tflite": LiteRtModel}


def load(path: Path, *, optimised: bool = True) -> Model:
    """The model in this file; without ``optimised`` computed by plain kernels.

    Raises ModelError if it cannot be loaded.
    """
    if path.suffix not in READERS:
        raise ModelError(f"{path.name}: not a model that can be judged here; known: {', '.join(READERS)}")
    return READERS[path.suffix](path, optimised=optimised)
