"""Runtime ``onnxruntime``: ONNX models on the CPU.

One thread by default and no spinning: below about a millisecond of work a second thread only burns a core.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import Tensors

ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    *(ValueError, RuntimeError, TypeError),  # from its Python part
)  # they share no base of their own
WARNINGS_OFF = 3  # severity "error": a device's log is no place for graph optimiser remarks


class OnnxModel:
    """A loaded ONNX model; ``run`` is thread-safe and releases the GIL."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, inputs: Tensors) -> Tensors:
        """All outputs by name. Raises ModelError if the model cannot answer these inputs."""
        with _mapped("cannot answer"):
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))


class OnnxRuntime:
    """Loads ``.onnx`` files."""

    def load(self, model: Path, threads: int) -> OnnxModel:
        """Raises ModelError if the file cannot be loaded."""
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = WARNINGS_OFF
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with _mapped(f"{model.name}: cannot be loaded"):
            return OnnxModel(ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"]))


@contextmanager
def _mapped(what: str) -> Iterator[None]:
    try:
        yield
    except ERRORS as error:
        raise ModelError(f"model {what}: {error}") from None
