"""The protocol's datatypes ↔ numpy, and the checks of a tensor's head that both wires share."""

import sys
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from skerry_shared.errors import InputError
from skerry_shared.ports.runtime import Tensors

Array = NDArray[np.generic]

NAMES: dict[str, str] = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}  # numpy's name: the protocol's
DTYPES: dict[str, "np.dtype[np.generic]"] = {name: np.dtype(dtype).newbyteorder("<") for dtype, name in NAMES.items()}
DATATYPES = {np.dtype(dtype): name for dtype, name in NAMES.items()}  # a look-up by ``dtype.name`` takes 1.6 µs
MAX_DIMENSIONS = 32  # of numpy 1; numpy 2 has 64
MAX_ELEMENTS = 1 << 40  # numpy multiplies the sizes even where one of them is 0
MAX_NAME = 256  # characters of a foreign name that an error repeats


def dtype_of(name: str, datatype: str) -> "np.dtype[np.generic]":
    """Little-endian, as raw contents are. Raises InputError that names the tensor."""
    if datatype not in DTYPES:
        raise InputError(f"input {name!r}: datatype {datatype[:MAX_NAME]!r}; known: {', '.join(DTYPES)}")
    return DTYPES[datatype]


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Array:
    """A view of ``raw``. Raises InputError that names the tensor."""
    dtype = dtype_of(name, datatype)
    size = elements(name, shape) * dtype.itemsize
    if len(raw) != size:
        raise InputError(f"input {name!r}: {datatype} {list(shape)} needs {size} bytes, got {len(raw)}")
    array: Array = np.frombuffer(raw, dtype).reshape(shape)
    return array


def elements(name: str, shape: Sequence[int]) -> int:
    """The number of elements. Raises InputError on a negative dimension, and on what is too much for numpy."""
    if len(shape) > MAX_DIMENSIONS:
        raise InputError(f"input {name!r}: shape has {len(shape)} dimensions; {MAX_DIMENSIONS} are allowed")
    if shape and min(shape) < 0:
        raise InputError(f"input {name!r}: shape {list(shape)} has a negative dimension")
    if prod([size or 1 for size in shape]) > MAX_ELEMENTS:
        raise InputError(f"input {name!r}: shape {list(shape)} is too large")
    return prod(shape)


def fitted(name: str, wide: Array, dtype: "np.dtype[np.generic]") -> Array:
    """``wide``, as the wire carries it, as ``dtype``. Raises InputError if a value does not fit."""
    with np.errstate(over="ignore"):  # said below, with the tensor's name
        array = wide.astype(dtype)
    lost = (
        array != wide if dtype.kind in "iu" else np.isinf(array) & ~np.isinf(wide) if dtype.kind == "f" else array[:0]
    )
    if lost.any():
        raise InputError(f"input {name!r}: values from {wide.min()} to {wide.max()} do not fit {dtype.name}")
    return array


def raw(array: Array) -> bytes:
    """Little-endian contents in C order, as they travel."""
    if sys.byteorder == "big":
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return array.tobytes()


def chosen(outputs: Tensors, wanted: Sequence[str]) -> Mapping[str, Array]:
    """The wanted outputs in that order, all of them if none is named. Raises InputError on an unknown one."""
    if not wanted:
        return outputs
    if unknown := set(wanted) - outputs.keys():
        known = ", ".join(map(repr, outputs))
        raise InputError(f"output {min(unknown)[:MAX_NAME]!r}: unknown; this model gives {known}")
    return {name: outputs[name] for name in wanted}
