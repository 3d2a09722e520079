"""Tensors of the Open Inference Protocol ↔ numpy: raw little-endian bytes, or typed lists of values."""

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared.errors import InputError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.release import TensorSpec

# datatype: numpy's dtype, and the field of InferTensorContents that holds its values (FP16 travels raw only)
DATATYPES: dict[str, tuple[str, str]] = {
    "BOOL": ("bool", "bool_contents"),
    "INT8": ("int8", "int_contents"),
    "INT16": ("int16", "int_contents"),
    "INT32": ("int32", "int_contents"),
    "INT64": ("int64", "int64_contents"),
    "UINT8": ("uint8", "uint_contents"),
    "UINT16": ("uint16", "uint_contents"),
    "UINT32": ("uint32", "uint_contents"),
    "UINT64": ("uint64", "uint64_contents"),
    "FP16": ("float16", ""),
    "FP32": ("float32", "fp32_contents"),
    "FP64": ("float64", "fp64_contents"),
}
NAMES = {dtype: datatype for datatype, (dtype, _) in DATATYPES.items()}

Array = NDArray[np.generic]


def inputs_of(request: pb.ModelInferRequest) -> dict[str, Array]:
    """The request's tensors by name. Raises InputError that names the tensor."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"raw_input_contents: {len(raw)} entries for {len(request.inputs)} inputs")
    inputs: dict[str, Array] = {}
    for i, tensor in enumerate(request.inputs):
        if tensor.name in inputs:
            raise InputError(f"input {tensor.name!r}: given twice")
        inputs[tensor.name] = _from_raw(tensor, raw[i]) if raw else _from_contents(tensor)
    return inputs


def add_outputs(response: pb.ModelInferResponse, outputs: Tensors, wanted: Sequence[str], raw: bool) -> None:
    """Put the wanted outputs into ``response``, all of them if none is named. Raises InputError on an unknown one."""
    if unknown := set(wanted) - outputs.keys():
        raise InputError(f"output {min(unknown)!r}: unknown; this model gives {', '.join(map(repr, outputs))}")
    chosen = {name: outputs[name] for name in wanted or outputs}
    raw = raw or any(array.dtype == np.float16 for array in chosen.values())  # travels raw only
    for name, array in chosen.items():
        tensor = response.outputs.add(name=name, datatype=NAMES[array.dtype.name], shape=array.shape)
        if raw:
            response.raw_output_contents.append(little_endian(array).tobytes())
        else:
            getattr(tensor.contents, DATATYPES[tensor.datatype][1]).extend(array.ravel().tolist())


def metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    """The protocol's description of a tensor; a free dimension is -1 in both."""
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=NAMES[spec.dtype], shape=spec.shape)


def little_endian(array: Array) -> Array:
    """As the protocol wants raw contents."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _from_raw(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes) -> Array:
    dtype, shape = np.dtype(_datatype(tensor)[0]).newbyteorder("<"), _shape(tensor)
    if len(raw) != prod(shape) * dtype.itemsize:
        needed = f"{tensor.datatype} {list(shape)} needs {prod(shape) * dtype.itemsize} bytes"
        raise InputError(f"input {tensor.name!r}: {needed}, got {len(raw)}")
    return np.frombuffer(raw, dtype).reshape(shape)


def _from_contents(tensor: pb.ModelInferRequest.InferInputTensor) -> Array:
    dtype, field = _datatype(tensor)
    shape, values = _shape(tensor), getattr(tensor.contents, field) if field else ()
    if len(values) != prod(shape):
        wanted = f"{tensor.datatype} {list(shape)} needs {prod(shape)} values"
        raise InputError(f"input {tensor.name!r}: {wanted} in {field or 'raw_input_contents'}, got {len(values)}")
    wide = np.array(values)
    array = wide.astype(dtype)
    if wide.dtype.kind in "iu" and (array != wide).any():  # the protocol carries uint8 as uint32
        raise InputError(f"input {tensor.name!r}: values from {wide.min()} to {wide.max()} do not fit {dtype}")
    return array.reshape(shape)


def _datatype(tensor: pb.ModelInferRequest.InferInputTensor) -> tuple[str, str]:
    if tensor.datatype not in DATATYPES:
        raise InputError(f"input {tensor.name!r}: datatype {tensor.datatype!r}; known: {', '.join(DATATYPES)}")
    return DATATYPES[tensor.datatype]


def _shape(tensor: pb.ModelInferRequest.InferInputTensor) -> tuple[int, ...]:
    if any(size < 0 for size in tensor.shape):
        raise InputError(f"input {tensor.name!r}: shape {list(tensor.shape)} has a negative dimension")
    return tuple(tensor.shape)
