"""Tensors of gRPC messages ↔ numpy: raw little-endian bytes, or typed lists of values."""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from skerry_edge.serve import datatypes
from skerry_edge.serve.datatypes import Array
from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared.errors import InputError

Form = tuple[tuple[str, "np.dtype[np.generic]", tuple[int, ...]], ...]  # of outputs: name, dtype, shape

CONTENTS: dict[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}  # datatype: the field of InferTensorContents that holds its values; FP16 travels raw only
LENGTH_DELIMITED = 2  # wire type
HEADS, HEAD = 64, 1 << 10  # heads of tensors that are recognised, and bytes of one, at most


class Layout(NamedTuple):
    """What a tensor's head says of its raw contents."""

    name: str
    dtype: "np.dtype[np.generic]"
    shape: tuple[int, ...]
    size: int  # bytes


def inputs_of(request: pb.ModelInferRequest) -> dict[str, Array]:
    """The request's tensors by name. Raises InputError that names the tensor."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"raw_input_contents: {len(raw)} entries for {len(request.inputs)} inputs")
    inputs: dict[str, Array] = {}
    for i, tensor in enumerate(request.inputs):
        name, array = _from_raw(tensor, raw[i]) if raw else (tensor.name, _from_contents(tensor))
        if name in inputs:
            raise InputError(f"input {name!r}: given twice")
        inputs[name] = array
    return inputs


def describe(response: pb.ModelInferResponse, form: Form) -> None:
    """Say which outputs there are, without their values."""
    for name, dtype, shape in form:
        response.outputs.add(name=name, datatype=datatypes.DATATYPES[dtype], shape=shape)


def typed(form: Form, arrays: Iterable[Array]) -> pb.ModelInferResponse:
    """Outputs with their values as typed lists."""
    response = pb.ModelInferResponse()
    describe(response, form)
    for tensor, array in zip(response.outputs, arrays, strict=True):
        getattr(tensor.contents, CONTENTS[tensor.datatype]).extend(array.ravel().tolist())
    return response


def raw_field(size: int) -> bytes:
    """What goes before an output's raw values of so many bytes in a serialized reply: the field's tag and their length,
    seven bits a byte (protobuf's encoding guide, "Base 128 Varints")."""
    field = bytearray([pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER << 3 | LENGTH_DELIMITED])
    while size >= 1 << 7:
        field.append(size & 0x7F | 1 << 7)
        size >>= 7
    return bytes([*field, size])


def travels_raw(form: Form) -> bool:
    """Is there a datatype that has no typed list?"""
    return any(dtype == np.float16 for _, dtype, _ in form)


def _from_raw(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes) -> tuple[str, Array]:
    """Its head is the same in one request after the other, and reading it is most of the work: done once."""
    if tensor.HasField("contents"):
        raise InputError(f"input {tensor.name!r}: has contents beside raw_input_contents")
    head = tensor.SerializeToString()
    name, dtype, shape, size = _layout(head) if len(head) <= HEAD else _layout.__wrapped__(head)
    if len(raw) != size:
        raise InputError(f"input {name!r}: {tensor.datatype} {list(shape)} needs {size} bytes, got {len(raw)}")
    return name, np.ndarray(shape, dtype, raw)  # a view, read-only


@lru_cache(HEADS)
def _layout(head: bytes) -> Layout:
    tensor = pb.ModelInferRequest.InferInputTensor.FromString(head)
    name, shape = tensor.name, tuple(tensor.shape)
    dtype = datatypes.dtype_of(name, tensor.datatype)
    return Layout(name, dtype, shape, datatypes.elements(name, shape) * dtype.itemsize)


def _from_contents(tensor: pb.ModelInferRequest.InferInputTensor) -> Array:
    dtype, field = datatypes.dtype_of(tensor.name, tensor.datatype), CONTENTS.get(tensor.datatype, "")
    needed = datatypes.elements(tensor.name, tensor.shape)
    values = getattr(tensor.contents, field) if field else ()
    if len(values) != needed:
        wanted = f"{tensor.datatype} {list(tensor.shape)} needs {needed} values"
        raise InputError(f"input {tensor.name!r}: {wanted} in {field or 'raw_input_contents'}, got {len(values)}")
    return datatypes.fitted(tensor.name, np.array(values), dtype).reshape(tensor.shape)
