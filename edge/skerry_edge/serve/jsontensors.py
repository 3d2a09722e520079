"""Tensors of REST bodies ↔ numpy: JSON values, or binary behind the JSON (the binary tensor data extension)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skerry_edge.serve import datatypes
from skerry_edge.serve.datatypes import MAX_NAME, Array
from skerry_shared.errors import InputError

Document = dict[str, Any]

KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}  # of a tensor's dtype: those of JSON values that may fill it


def inputs_of(tensors: object, binary: memoryview) -> dict[str, Array]:
    """The request's tensors by name; ``binary`` is what follows the JSON. Raises InputError that names the tensor."""
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise InputError("inputs: need an array of objects")
    inputs: dict[str, Array] = {}
    used = 0
    for tensor in tensors:
        name = text(tensor, "name", "inputs")
        if name in inputs:
            raise InputError(f"input {name!r}: given twice")
        size = _binary_size(name, tensor)
        part = None if size is None else binary[used : used + size]
        inputs[name] = _array(name, tensor, part)
        used += size or 0
    if used != len(binary):
        raise InputError(f"binary data: {len(binary)} bytes behind the JSON, its inputs need {used}")
    return inputs


def outputs_of(arrays: Mapping[str, Array], binary: Mapping[str, bool]) -> tuple[list[Document], list[bytes]]:
    """The outputs' documents and the bytes that follow the JSON. Raises InputError for what JSON cannot hold."""
    documents, parts = [], []
    for name, array in arrays.items():
        document: Document = {
            "name": name, "datatype": datatypes.DATATYPES[array.dtype], "shape": list(array.shape)
        }  # fmt: skip
        if binary[name]:
            part = datatypes.raw(array)
            document["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            document["data"] = _values(name, array)
        documents.append(document)
    return documents, parts


def text(document: Document, key: str, where: str) -> str:
    """The string under ``key``. Raises InputError."""
    value = document.get(key)
    if not isinstance(value, str):
        raise InputError(f"{where}: {key!r} must be a string")
    return value


def parse(data: memoryview) -> Document:
    """A JSON object. Raises InputError."""
    try:
        document = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(f"body: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InputError("body: need a JSON object")
    return document


def parameters_of(document: Document, where: str) -> Document:
    """The object ``parameters``, empty if there is none. Raises InputError."""
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InputError(f"{where}: 'parameters' must be an object")
    return parameters


def _binary_size(name: str, tensor: Document) -> int | None:
    parameters = parameters_of(tensor, f"input {name[:MAX_NAME]!r}")
    if "shared_memory_region" in parameters:
        raise InputError(f"input {name!r}: shared memory is not served here; send the data")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise InputError(f"input {name!r}: 'binary_data_size' must be a number of bytes")
    return size


def _array(name: str, tensor: Document, part: memoryview | None) -> Array:
    datatype, shape = text(tensor, "datatype", f"input {name!r}"), _shape(name, tensor)
    if part is None:
        return _from_values(name, datatype, shape, tensor.get("data"))
    if "data" in tensor:
        raise InputError(f"input {name!r}: has 'data' beside binary data")
    return datatypes.from_raw(name, datatype, shape, part)


def _shape(name: str, tensor: Document) -> Sequence[int]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and size < 1 << 63 for size in shape):
        raise InputError(f"input {name!r}: 'shape' must be an array of integers")
    return shape


def _from_values(name: str, datatype: str, shape: Sequence[int], data: object) -> Array:
    dtype, needed = datatypes.dtype_of(name, datatype), datatypes.elements(name, shape)
    if not isinstance(data, list):
        raise InputError(f"input {name!r}: 'data' must be an array, or 'binary_data_size' must tell of binary data")
    try:
        wide = np.array(data)
    except ValueError:
        raise InputError(f"input {name!r}: 'data' is nested unevenly") from None
    if wide.size != needed or (wide.ndim != 1 and wide.shape != tuple(shape)):
        found = f"{wide.size} values" if wide.ndim == 1 else f"values nested as {list(wide.shape)}"
        raise InputError(f"input {name!r}: {datatype} {list(shape)} needs {needed} values, got {found}")
    if wide.size and wide.dtype.kind not in KINDS[dtype.kind]:
        raise InputError(f"input {name!r}: 'data' has values that are no {datatype}")
    return datatypes.fitted(name, wide, dtype).reshape(shape)


def _values(name: str, array: Array) -> list[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"output {name!r}: has values that JSON cannot hold; ask for binary data")
    values: list[Any] = array.ravel().tolist()
    return values
