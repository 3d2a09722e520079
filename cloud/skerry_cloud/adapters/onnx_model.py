"""Runs an exported model with ONNX Runtime, to judge it: one thread, batches, every foreign error a ModelError."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as status

from skerry_shared.errors import ModelError

ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    RuntimeError,
    *(each for each in vars(status).values() if isinstance(each, type) and issubclass(each, Exception)),
)


@dataclass(frozen=True)
class Answers:
    """A model's outputs: ``scores`` float32 n × labels, ``monitors`` float32 n × M."""

    scores: NDArray[np.float32]
    monitors: NDArray[np.float32]


class OnnxModel:
    """A loaded model of one input and the outputs ``scores`` and ``monitors``."""

    def __init__(self, path: Path, *, optimised: bool = True) -> None:
        """Without ``optimised`` an INT8 model is computed as written: float kernels between its roundings.

        Raises ModelError if the file cannot be loaded.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except ERRORS as error:
            raise ModelError(f"{path.name}: {error}") from None
        self._input = self._session.get_inputs()[0].name

    def run(self, inputs: NDArray[Any], batch: int = 256) -> Answers:
        """Answers to all inputs (n × raw shape), ``batch`` at a time. Raises ModelError."""
        parts = [self.answer(inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
        scores, monitors = zip(*parts, strict=True)
        return Answers(np.concatenate(scores), np.concatenate(monitors))

    def answer(self, inputs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores and monitors of one batch. Raises ModelError."""
        try:
            scores, monitors = self._session.run(["scores", "monitors"], {self._input: inputs})
        except ERRORS as error:
            raise ModelError(f"model does not answer: {error}") from None
        return scores, monitors


def raw(model: bytes, inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """All outputs, by name, of any model of one input. Raises ModelError."""
    try:
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {session.get_inputs()[0].name: inputs}), strict=True))
    except ERRORS as error:
        raise ModelError(f"model does not answer: {error}") from None
