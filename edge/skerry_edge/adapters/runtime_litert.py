"""Runtime ``litert``: ``.tflite`` models on the CPU, by ``ai_edge_litert``, or ``tflite_runtime`` where only that is.

An interpreter has state and one shape of inputs, so there is one for each shape, and each runs one request at a time.
A file whose graph holds one example (most do) answers several in turn: a call costs some two microseconds.
Where the file has a signature its names are the tensors' names, else those in the graph are.
"""

import importlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import CPU, Tensors

MODULES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
NEEDED = "runtime 'litert' needs ai-edge-litert (pip install 'skerry[tflite]')"
ERRORS = (ValueError, RuntimeError, TypeError, OSError, SystemError)  # SystemError: tflite_runtime beside numpy 2
SHAPES = 4  # that an interpreter is kept for; it holds the activations, and its own packed copy of the weights

Indices = Mapping[str, Mapping[str, Any]]
Form = tuple[tuple[str, tuple[int, ...]], ...]


class LiteRtModel:
    """A loaded TFLite model. ``run`` is thread-safe; calls take turns."""

    def __init__(self, interpreter: Callable[..., Any], path: Path, threads: int) -> None:
        self._make: Callable[[], Any] = partial(interpreter, model_path=str(path), num_threads=threads)
        self._lock, self._prepared = threading.Lock(), dict[Form, _Prepared | _OneByOne]()
        self._inputs = _Prepared(self._make(), {}).inputs

    def run(self, inputs: Tensors) -> Tensors:
        """All outputs by name, fresh arrays. Raises ModelError if the model cannot answer these inputs."""
        form = tuple((name, array.shape) for name, array in inputs.items())
        with self._lock, _mapped("cannot answer"):
            prepared = self._prepared.get(form) or self._prepare(form)
            return prepared.run(inputs)

    def _prepare(self, form: Form) -> "_Prepared | _OneByOne":
        shapes = dict(form)
        _check_shapes(self._inputs, shapes)
        made = self._prepared_for(shapes)
        if len(self._prepared) >= SHAPES:
            del self._prepared[next(iter(self._prepared))]
        self._prepared[form] = made
        return made

    def _prepared_for(self, shapes: Mapping[str, tuple[int, ...]]) -> "_Prepared | _OneByOne":
        single = {name: (1, *shape[1:]) for name, shape in shapes.items()}
        try:
            return _Prepared(self._make(), shapes)
        except RuntimeError:
            if single == shapes:
                raise
            return _OneByOne(_Prepared(self._make(), single))


class _Prepared:
    """An interpreter for inputs of these shapes; of those in the file where none are given."""

    def __init__(self, interpreter: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._interpreter = interpreter
        self.inputs, self._outputs = _tensors(interpreter)
        for name, shape in shapes.items():
            interpreter.resize_tensor_input(self.inputs[name]["index"], shape)
        interpreter.allocate_tensors()

    def run(self, inputs: Tensors) -> Tensors:
        for name, array in inputs.items():
            self._interpreter.set_tensor(self.inputs[name]["index"], np.ascontiguousarray(array))
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(detail["index"]) for name, detail in self._outputs.items()}


class _OneByOne:
    """Several examples for an interpreter of one."""

    def __init__(self, prepared: _Prepared) -> None:
        self._prepared = prepared

    def run(self, inputs: Tensors) -> Tensors:
        examples = len(next(iter(inputs.values())))
        answers = [
            self._prepared.run({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(examples)
        ]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


class LiteRt:
    """Loads ``.tflite`` files."""

    def providers(self) -> Sequence[str]:
        """The CPU alone: delegates of vendors are other runtimes, with other files."""
        return [CPU]

    def version(self) -> str:
        """Of the package that is used. Raises ModelError if there is none."""
        for package in MODULES:  # asked for without importing it, which costs 15 MB
            with suppress(PackageNotFoundError):
                return f"{package} {version(package)}"
        raise ModelError(NEEDED)

    def load(self, model: Path, threads: int, provider: str = CPU, cache: Path | None = None) -> LiteRtModel:  # noqa: ARG002
        """Raises ModelError if the file cannot be loaded."""
        if provider != CPU:
            raise ModelError(f"provider {provider!r}: litert runs on {CPU!r} only")
        if not model.is_file():
            raise ModelError(f"{model.name}: no such file")
        with _mapped(f"{model.name}: cannot be loaded"):
            return LiteRtModel(_interpreter(), model, threads)


def _interpreter() -> Callable[..., Any]:
    for module in MODULES.values():
        try:
            found: Callable[..., Any] = importlib.import_module(module).Interpreter
        except ImportError:
            continue
        return found
    raise ModelError(NEEDED)


def _tensors(interpreter: Any) -> tuple[Indices, Indices]:
    """Inputs and outputs by name, as the interpreter describes them."""
    signatures = interpreter.get_signature_list()
    if signatures:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        return runner.get_input_details(), runner.get_output_details()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    return {detail["name"]: detail for detail in inputs}, {detail["name"]: detail for detail in outputs}


def _check_shapes(inputs: Indices, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ModelError unless these are the model's inputs, of its shapes but for the number of examples."""
    if shapes.keys() != inputs.keys():
        raise ModelError(f"model takes {', '.join(map(repr, inputs))}; got {', '.join(map(repr, shapes)) or 'nothing'}")
    for name, shape in shapes.items():
        declared = tuple(map(int, inputs[name].get("shape_signature", inputs[name]["shape"])))
        fits = len(shape) == len(declared) and all(
            want in (-1, size) for want, size in zip(declared[1:], shape[1:], strict=True)
        )
        if not fits or 0 in shape:
            raise ModelError(f"model input {name!r}: takes {list(declared)}, got {list(shape)}")


@contextmanager
def _mapped(what: str) -> Iterator[None]:
    try:
        yield
    except ERRORS as error:
        raise ModelError(f"model {what}: {error}") from None
