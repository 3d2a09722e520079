"""Tensors of the suite: metadata, samples that fit it, and their four forms on the wire."""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared.errors import InputError

Array = NDArray[Any]

# datatype: numpy's dtype, and the field of InferTensorContents; FP16 travels raw only
DATATYPES: dict[str, tuple[str, str]] = {
    "BOOL": ("?", "bool_contents"), "INT8": ("<i1", "int_contents"), "INT16": ("<i2", "int_contents"),
    "INT32": ("<i4", "int_contents"), "INT64": ("<i8", "int64_contents"), "UINT8": ("<u1", "uint_contents"),
    "UINT16": ("<u2", "uint_contents"), "UINT32": ("<u4", "uint_contents"), "UINT64": ("<u8", "uint64_contents"),
    "FP16": ("<f2", ""), "FP32": ("<f4", "fp32_contents"), "FP64": ("<f8", "fp64_contents"),
    "BYTES": ("O", "bytes_contents"),
}  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """A tensor of the model's metadata; a free dimension is -1."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def fits(self, shape: Iterable[int]) -> bool:
        """Whether a tensor of ``shape`` fits."""
        found = tuple(shape)
        return len(found) == len(self.shape) and all(a in (-1, b) for a, b in zip(self.shape, found, strict=True))


@dataclass(frozen=True)
class Tensor:
    """A named tensor. ``shape`` and ``datatype`` are what is claimed; a wrong request has other values."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Array  # flat


@dataclass(frozen=True)
class Query:
    """An inference request of no particular form."""

    model: str
    inputs: tuple[Tensor, ...]
    version: str = ""
    id: str = ""
    outputs: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)

    def with_first(self, **changes: Any) -> "Query":
        """The same with its first input changed."""
        first, *others = self.inputs
        return replace(self, inputs=(replace(first, **changes), *others))


def sample(spec: Spec, shape: tuple[int, ...] | None, examples: int = 1) -> Tensor:
    """Small values that fit; free dimensions are 1, the first one ``examples``. ``shape`` overrides all but those.

    Raises InputError for a datatype that the protocol does not have.
    """
    if spec.datatype not in DATATYPES:
        raise InputError(f"input {spec.name!r}: the model's metadata says datatype {spec.datatype!r}")
    sizes = list(shape or (max(size, 1) for size in spec.shape))
    if spec.shape[:1] == (-1,):
        sizes[0] = examples
    numbers = np.arange(prod(sizes)) % 2
    values = np.array([b"%d" % n for n in numbers], object) if spec.datatype == "BYTES" else numbers
    return Tensor(spec.name, spec.datatype, tuple(sizes), values.astype(DATATYPES[spec.datatype][0]))


def to_raw(values: Array) -> bytes:
    """Little-endian contents; a BYTES element has its length in four bytes before it."""
    if values.dtype == object:
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return values.tobytes()


def from_raw(datatype: str, data: bytes) -> Array:
    """Undo ``to_raw``. Raises ValueError, KeyError or struct.error on what is none."""
    if datatype != "BYTES":
        return np.frombuffer(data, DATATYPES[datatype][0])
    values, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        values.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return np.array(values, object)


def grpc_request(query: Query, raw: bool) -> pb.ModelInferRequest:
    """As raw or typed contents."""
    request = pb.ModelInferRequest(model_name=query.model, model_version=query.version, id=query.id)
    for tensor in query.inputs:
        message = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            request.raw_input_contents.append(to_raw(tensor.values))
        else:
            getattr(message.contents, _field(tensor)).extend(tensor.values.tolist())
    for name in query.outputs:
        request.outputs.add(name=name)
    for key, value in query.parameters.items():
        kind = "int64_param" if type(value) is int else "string_param"
        setattr(request.parameters[key], kind, value)
    return request


def rest_request(query: Query, binary: bool) -> tuple[bytes, dict[str, str]]:
    """Body and headers; with ``binary`` inputs are, and outputs shall be, behind the JSON."""
    inputs, parts = [], []
    for tensor in query.inputs:
        document: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if binary:
            parts.append(to_raw(tensor.values))
            document["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            document["data"] = [v.decode() if isinstance(v, bytes) else v for v in tensor.values.tolist()]
        inputs.append(document)
    head: dict[str, Any] = {"inputs": inputs} | ({"id": query.id} if query.id else {})
    if query.outputs:
        head["outputs"] = [{"name": name, "parameters": {"binary_data": binary}} for name in query.outputs]
    parameters = query.parameters | ({"binary_data_output": True} if binary else {})
    if parameters:
        head["parameters"] = parameters
    data = json.dumps(head).encode()
    return b"".join([data, *parts]), {"Inference-Header-Content-Length": str(len(data))} if binary else {}


def _field(tensor: Tensor) -> str:
    """Where the values go, also where the claimed datatype is none."""
    kinds = {
        "b": "bool_contents",
        "i": "int_contents",
        "u": "uint_contents",
        "f": "fp32_contents",
        "O": "bytes_contents",
    }
    claimed = DATATYPES.get(tensor.datatype, ("", ""))
    if claimed[1] and np.dtype(claimed[0]).kind == tensor.values.dtype.kind:
        return claimed[1]
    return kinds[tensor.values.dtype.kind]
