"""Frames: how a process on the same device asks for predictions. See docs/wire.md, "Frames".

A frame is a prefix of 48 bytes, a header (JSON) and a body (raw tensors, each starting at a multiple of 64 bytes). What
changes with every frame is in the prefix, so that headers repeat and are parsed and made once. One request at a time a
connection. Both ends use this module; it knows no sockets.
"""

import json
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skerry_shared import errors
from skerry_shared.errors import InputError, SkerryError
from skerry_shared.ports.runtime import Tensors

PREFIX = struct.Struct("<BBxxIQQ24s")
ASK, ANSWER, ERROR, LABELS, ATTACH, READY = range(1, 7)  # kinds of frames
IN_SHARED = 1  # flag: the body is in shared memory, at its start in a request, at ``room`` in an answer

ALIGNMENT = 64  # bytes; what vector instructions and cache lines like
SHARED_BYTES = 64 << 10  # of a body from which on shared memory pays (measured by scripts/bench serve)
MAX_HEADER, MAX_BODY = 64 << 10, 64 << 20  # bytes
MAX_SHARED = 1 << 30  # bytes of a connection's shared memory
MAX_TENSORS, MAX_DIMENSIONS = 64, 16
HEADERS = 256  # that are remembered

DTYPES = {"bool", "float16", "float32", "float64", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))}

Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview | mmap.mmap


class Prefix(NamedTuple):
    """What a frame starts with."""

    kind: int
    flags: int
    header: int  # bytes
    body: int  # bytes
    room: int  # in a request: where in shared memory a large answer may go, 0 for nowhere; in an answer: where it is
    prediction_id: bytes  # of an answer; 24 ASCII characters, else zeros

    def check(self) -> "Prefix":
        """Itself. Raises InputError where it breaks a limit; what follows in the stream is then meaningless."""
        limit = MAX_SHARED if self.flags & IN_SHARED else MAX_BODY
        if not ASK <= self.kind <= READY or self.header > MAX_HEADER or self.body > limit:
            raise InputError(f"frame: kind {self.kind}, {self.header} + {self.body} bytes; not within the limits")
        return self


class Layout(NamedTuple):
    """Where a tensor lies in a body."""

    name: str
    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Header:
    """A parsed header."""

    fields: Mapping[str, Any]
    tensors: tuple[Layout, ...]
    size: int  # bytes of the body


def prefix(buffer: Buffer) -> Prefix:
    """The prefix at the start of ``buffer``. Raises InputError where it breaks a limit."""
    return Prefix._make(PREFIX.unpack_from(buffer)).check()


def header(fields: Mapping[str, Any], tensors: Tensors) -> bytes:
    """The header of a frame that carries these tensors."""
    listed = [[name, array.dtype.name, array.shape] for name, array in tensors.items()]
    return json.dumps({**fields, "tensors": listed}, separators=(",", ":")).encode()


@lru_cache(HEADERS)
def parse(data: bytes) -> Header:
    """A header that came. Raises InputError that says what is wrong with it."""
    try:
        fields = json.loads(data)
        listed = [(str(name), str(dtype), tuple(map(int, shape))) for name, dtype, shape in fields.pop("tensors")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"frame: no header: {error!r}") from None
    if len(listed) > MAX_TENSORS or len({name for name, _, _ in listed}) < len(listed):
        raise InputError(f"frame: needs at most {MAX_TENSORS} tensors, each once")
    return Header(fields, *_laid_out(listed))


def views(head: Header, body: Buffer, start: int = 0) -> dict[str, Array]:
    """The tensors in ``body``, which the header has ``size`` bytes of from ``start`` on; no copies."""
    return {name: np.ndarray(shape, dtype, body, start + offset) for name, dtype, shape, offset in head.tensors}


def place(head: Header, tensors: Tensors, body: Buffer, start: int = 0) -> None:
    """Copy the tensors into ``body``."""
    for name, view in views(head, body, start).items():
        view[...] = tensors[name]


def lie_in(head: Header, tensors: Tensors, body: Buffer) -> bool:
    """Are the tensors in ``body`` already, each where it must be?"""
    return all(
        tensors[name].ctypes.data == view.ctypes.data and tensors[name].strides == view.strides
        for name, view in views(head, body).items()
    )


def joined(head: Header, tensors: Tensors) -> bytes:
    """The body as bytes."""
    if len(tensors) == 1:
        (tensor,) = tensors.values()
        return tensor.astype(head.tensors[0].dtype, copy=False).tobytes()
    body = bytearray(head.size)
    place(head, tensors, body)
    return bytes(body)


def error_header(error: SkerryError) -> bytes:
    """The header of a frame of kind ERROR."""
    return json.dumps({"error": type(error).__name__, "message": str(error)[: MAX_HEADER // 8]}).encode()


def error_of(data: bytes) -> SkerryError:
    """The error that a frame of kind ERROR tells of; of a kind that is not known here, a SkerryError."""
    try:
        told = json.loads(data)
        kind, message = str(told["error"]), str(told["message"])
    except (ValueError, TypeError, KeyError):
        return SkerryError("the agent refused, and did not say why")
    found = getattr(errors, kind, SkerryError)
    known = isinstance(found, type) and issubclass(found, SkerryError)
    return found(message) if known else SkerryError(message)


def _laid_out(listed: Sequence[tuple[str, str, tuple[int, ...]]]) -> tuple[tuple[Layout, ...], int]:
    tensors, end = [], 0
    for name, dtype, shape in listed:
        if dtype not in DTYPES or len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape):
            raise InputError(
                f"input {name!r}: {dtype} {list(shape)} is not possible; dtypes: {', '.join(sorted(DTYPES))}"
            )
        start = -(-end // ALIGNMENT) * ALIGNMENT
        tensors.append(Layout(name, np.dtype(dtype).newbyteorder("<"), shape, start))
        end = start + prod(shape) * np.dtype(dtype).itemsize
    return tuple(tensors), end
