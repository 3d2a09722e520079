"""Runs a .tflite model with LiteRT, to judge it, and reads and writes such files: extra ``tflite``.

The file has a signature, which names its tensors; see ``train.adopt_tflite`` for one that has none.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.adapters.onnx_model import Answers
from skerry_shared.errors import ModelError
from skerry_shared.files import write_durably

NEEDED = "models for LiteRT need ai-edge-litert: pip install 'skerry[tflite]'"
IDENTIFIER = b"TFL3"
ERRORS = (ValueError, RuntimeError, TypeError, KeyError)


class LiteRtModel:
    """A loaded model of one input and the outputs ``scores`` and, if it has any, ``monitors``."""

    def __init__(self, path: Path, *, optimised: bool = True) -> None:
        """Without ``optimised`` it is computed by the reference kernels. Raises ModelError if it cannot be loaded."""
        runtime = _runtime()
        kinds = runtime.OpResolverType
        self._name = path.name
        try:
            self._interpreter = runtime.Interpreter(
                model_path=str(path), num_threads=1,
                experimental_op_resolver_type=kinds.AUTO if optimised else kinds.BUILTIN_REF,
            )  # fmt: skip
            self._interpreter.allocate_tensors()
            signature = next(iter(self._interpreter.get_signature_list()))
            runner = self._interpreter.get_signature_runner(signature)
        except (*ERRORS, StopIteration) as error:
            raise ModelError(f"{path.name}: {error or 'has no signature'}") from None
        self._input = next(iter(runner.get_input_details().values()))["index"]
        self._outputs = {name: detail["index"] for name, detail in runner.get_output_details().items()}

    def run(self, inputs: NDArray[Any], batch: int = 256) -> Answers:  # noqa: ARG002
        """Answers to all inputs (n × raw shape), one at a time: most files hold a graph for one. Raises ModelError."""
        scores, monitors = zip(*(self.answer(inputs[i : i + 1]) for i in range(len(inputs))), strict=True)
        return Answers(np.concatenate(scores), np.concatenate(monitors))

    def answer(self, inputs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores and monitors of one input. Raises ModelError."""
        answers = self.outputs(inputs)
        scores = answers["scores"]
        return scores, answers.get("monitors", scores[:, :0])

    def outputs(self, inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """All outputs by name, of one input. Raises ModelError."""
        try:
            self._interpreter.set_tensor(self._input, inputs)
            self._interpreter.invoke()
            return {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}
        except ERRORS as error:
            raise ModelError(f"{self._name}: does not answer: {error}") from None


def read(path: Path) -> Any:
    """The file as LiteRT's schema has it, a ``ModelT``. Raises ModelError if it is none."""
    content = path.read_bytes()
    if content[4:8] != IDENTIFIER:
        raise ModelError(f"{path.name}: not a .tflite file")
    return _schema().ModelT.InitFromPackedBuf(content, 0)


def write(model: Any, path: Path) -> None:
    """Write a ``ModelT`` durably."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    write_durably(path, bytes(builder.Output()))


def signature(model: Any, inputs: dict[str, int], outputs: dict[str, int]) -> None:
    """Give the ``ModelT`` this one signature: tensors of its main graph by name."""
    schema = _schema()

    def tensors(named: dict[str, int]) -> list[Any]:
        return [_with(schema.TensorMapT(), name=name, tensorIndex=index) for name, index in named.items()]

    only = _with(schema.SignatureDefT(), signatureKey="serving_default", subgraphIndex=0)
    model.signatureDefs = [_with(only, inputs=tensors(inputs), outputs=tensors(outputs))]


def dtype(tensor: Any) -> str:
    """Numpy's name for the type of a ``TensorT``; LiteRT's own where numpy has none."""
    names = {number: name for name, number in vars(_schema().TensorType).items() if isinstance(number, int)}
    return str(names[tensor.type]).lower()


def _with(made: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def _runtime() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        raise ModelError(NEEDED) from None
    return interpreter


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise ModelError(NEEDED) from None
    return schema_py_generated
