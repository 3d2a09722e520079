"""Tensors of gRPC messages ↔ numpy: raw little-endian bytes, or typed lists of values."""

from collections.abc import Iterable

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


def inputs_of(request: pb.ModelInferRequest) -> dict[str, Array]:
    """The request's tensors by name. Raises InputError that names the tensor."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"raw_input_contents: {len(raw)} entries for {len(request.inputs)} inputs")
    inputs: dict[str, Array] = {}
    for i, tensor in enumerate(request.inputs):
        name = tensor.name
        if name in inputs:
            raise InputError(f"input {name!r}: given twice")
        inputs[name] = _from_raw(tensor, raw[i]) if raw else _from_contents(tensor)
    return inputs


def describe(response: pb.ModelInferResponse, form: Form) -> None:
    """Say which outputs there are, without their values."""
    for name, dtype, shape in form:
        response.outputs.add(name=name, datatype=datatypes.DATATYPES[dtype], shape=shape)


def add_typed(response: pb.ModelInferResponse, form: Form, arrays: Iterable[Array]) -> None:
    """Say which outputs there are, with their values as typed lists."""
    describe(response, form)
    for tensor, array in zip(response.outputs, arrays, strict=True):
        getattr(tensor.contents, CONTENTS[tensor.datatype]).extend(array.ravel().tolist())


def travels_raw(form: Form) -> bool:
    """Is there a datatype that has no typed list?"""
    return any(dtype == np.float16 for _, dtype, _ in form)


def _from_raw(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes) -> Array:
    if tensor.HasField("contents"):
        raise InputError(f"input {tensor.name!r}: has contents beside raw_input_contents")
    return datatypes.from_raw(tensor.name, tensor.datatype, tuple(tensor.shape), raw)


def _from_contents(tensor: pb.ModelInferRequest.InferInputTensor) -> Array:
    dtype, field = datatypes.dtype_of(tensor.name, tensor.datatype), CONTENTS.get(tensor.datatype, "")
    needed = datatypes.elements(tensor.name, tensor.shape)
    values = getattr(tensor.contents, field) if field else ()
    if len(values) != needed:
        wanted = f"{tensor.datatype} {list(tensor.shape)} needs {needed} values"
        raise InputError(f"input {tensor.name!r}: {wanted} in {field or 'raw_input_contents'}, got {len(values)}")
    return datatypes.fitted(tensor.name, np.array(values), dtype).reshape(tensor.shape)
