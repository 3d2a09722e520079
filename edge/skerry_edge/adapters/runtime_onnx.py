"""Runtime ``onnxruntime``: ONNX models on the CPU, or on an accelerator that the build at hand has a provider for.

One thread by default and no spinning: below about a millisecond of work a second thread only burns a core.

Small requests run over an I/O binding: buffers for inputs and outputs that are made once for each thread and shape, so
that a call allocates nothing inside the runtime. It is faster than ``InferenceSession.run`` and has no tail. Answers
are copied out: they are the caller's to keep and to change. What a binding cannot serve (large tensors, where the copy
would cost more than it saves; outputs whose shape the inputs do not determine; wrong inputs) takes the plain way.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as native

from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import CPU, Tensors
from skerry_shared.release import ANY

ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    *(ValueError, RuntimeError, TypeError),  # from its Python part
)  # they share no base of their own
WARNINGS_OFF = 3  # severity "error": a device's log is no place for graph optimiser remarks
BOUND_BYTES = 256 << 10  # of a request's tensors; beyond it copying costs more than a binding saves
BOUND_SHAPES = 8  # that a thread keeps bindings for; the oldest gives way

PROVIDERS = {CPU: "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip

Array = NDArray[Any]
Key = tuple[tuple[str, "np.dtype[Any]", tuple[int, ...]], ...]


class OnnxModel:
    """A loaded ONNX model; ``run`` is thread-safe and releases the GIL."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._bindings = _Bindings()

    def run(self, inputs: Tensors) -> Tensors:
        """All outputs by name, fresh arrays. Raises ModelError if the model cannot answer these inputs."""
        key = tuple([(name, array.dtype, array.shape) for name, array in inputs.items()])
        known = self._bindings.known
        if key not in known:
            _keep(known, key, self._bind(key))
        if bound := known[key]:
            try:
                return bound.run(self._session, inputs)
            except ERRORS:
                known[key] = None  # its outputs are not of the declared shape, or the plain way tells what is wrong
        with _mapped("cannot answer"):
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))

    def _bind(self, key: Key) -> "_Bound | None":
        """A binding for inputs of these names, dtypes and shapes; None where there can be none."""
        given = {name: (dtype, shape) for name, dtype, shape in key}
        sizes = _sizes(self._session.get_inputs(), given)
        if sizes is None:
            return None
        outputs = {output.name: _resolved(output, sizes) for output in self._session.get_outputs()}
        found = {name: spec for name, spec in outputs.items() if spec}
        total = sum(prod(shape) * dtype.itemsize for dtype, shape in (*given.values(), *found.values()))
        if len(found) < len(outputs) or total > BOUND_BYTES:
            return None
        with _mapped("cannot be bound"):
            return _Bound(self._session, given, found)


class _Bound:
    """Buffers of one thread for one shape of request."""

    def __init__(self, session: ort.InferenceSession, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        self._binding = session.io_binding()
        self._inputs = {name: np.zeros(shape, dtype) for name, (dtype, shape) in inputs.items()}
        self._outputs = {name: np.zeros(shape, dtype) for name, (dtype, shape) in outputs.items()}
        for name, array in self._inputs.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in self._outputs.items():
            self._binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))

    def run(self, session: ort.InferenceSession, inputs: Tensors) -> dict[str, Array]:
        for name, buffer in self._inputs.items():
            buffer[...] = inputs[name]
        session.run_with_iobinding(self._binding)
        return {name: buffer.copy() for name, buffer in self._outputs.items()}


class _Bindings(threading.local):
    """This thread's bindings; None: these inputs take the plain way."""

    def __init__(self) -> None:
        self.known: dict[Key, _Bound | None] = {}


class OnnxRuntime:
    """Loads ``.onnx`` files."""

    def providers(self) -> Sequence[str]:
        """What this build claims to have. A claim only: see ``infer.choose``."""
        claimed = ort.get_available_providers()
        return [name for name, provider in PROVIDERS.items() if provider in claimed]

    def version(self) -> str:
        """Of ONNX Runtime, and of what it was built for."""
        return f"onnxruntime {ort.__version__} {ort.get_device()}"

    def load(self, model: Path, threads: int, provider: str = CPU, cache: Path | None = None) -> OnnxModel:
        """Raises ModelError if the file cannot be loaded, or not on this provider."""
        if provider not in self.providers():
            raise ModelError(f"provider {provider!r}: not in this onnxruntime; it has {', '.join(self.providers())}")
        with _mapped(f"{model.name}: cannot be loaded on {provider}"):
            session = ort.InferenceSession(str(model), _options(threads), providers=[_provider(provider, model, cache)])
            session.disable_fallback()  # the runtime would go on with the CPU and say so in a log only
            used = session.get_providers()
        if PROVIDERS[provider] not in used:
            raise ModelError(f"{model.name}: {provider} was asked for, the runtime took {', '.join(used)}")
        return OnnxModel(session)


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = WARNINGS_OFF
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _provider(name: str, model: Path, cache: Path | None) -> tuple[str, dict[str, str]]:
    """As ``InferenceSession`` wants it.

    TensorRT builds engines, which are worth keeping, and needs to be told that a model is quantised. CUDA would round
    what it multiplies to 10 bits (TF32) where golden answers are of 23.
    """
    options = dict[str, str]()
    if name == "cuda":
        options = {"use_tf32": "0"}
    if name == "tensorrt":
        options = {"trt_int8_enable": str(int(b"QuantizeLinear" in model.read_bytes()))}
    if name == "tensorrt" and cache:
        options |= {"trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1"}
        options |= {"trt_engine_cache_path": str(cache), "trt_timing_cache_path": str(cache)}
    return PROVIDERS[name], options


def _sizes(declared: Sequence[Any], given: Mapping[str, Any]) -> dict[str, int] | None:
    """What each symbolic dimension is with these inputs; None if they do not fit the declaration."""
    sizes: dict[str, int] = {}
    if given.keys() != {spec.name for spec in declared}:
        return None
    for spec in declared:
        dtype, shape = given[spec.name]
        if DTYPES.get(spec.type) != dtype.name or not dtype.isnative or len(shape) != len(spec.shape):
            return None
        for want, size in zip(spec.shape, shape, strict=True):
            if size != (sizes.setdefault(want, size) if isinstance(want, str) else want):
                return None
    return sizes


def _resolved(output: Any, sizes: Mapping[str, int]) -> tuple["np.dtype[Any]", tuple[int, ...]] | None:
    """Dtype and shape of an output; None if the inputs do not determine them."""
    shape = tuple(
        sizes.get(size, ANY) if isinstance(size, str) else ANY if size is None else size for size in output.shape
    )
    if output.type not in DTYPES or ANY in shape:
        return None
    return np.dtype(DTYPES[output.type]), shape


def _keep(known: dict[Key, _Bound | None], key: Key, bound: _Bound | None) -> None:
    if len(known) >= BOUND_SHAPES:
        del known[next(iter(known))]
    known[key] = bound


@contextmanager
def _mapped(what: str) -> Iterator[None]:
    try:
        yield
    except ERRORS as error:
        raise ModelError(f"model {what}: {error}") from None
