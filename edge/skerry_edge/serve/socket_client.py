"""Predictions from another process, over the agent's Unix socket. Needs numpy, neither a runtime nor gRPC.

    with SocketClient("/var/lib/skerry") as client:
        answer = client.predict({"image": pixels})

Large tensors travel through shared memory. ``client.shared`` gives arrays that lie in it: fill one and pass it to
``predict``, and nothing is copied on the way to the model.
"""

import fcntl
import mmap
import os
import socket
import struct
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skerry_edge.serve import frames
from skerry_edge.serve.frames import IN_SHARED, PREFIX, Buffer, Header, Prefix
from skerry_shared.errors import InputError, LinkError, SkerryError
from skerry_shared.ports.runtime import Tensors

SOCKET = Path("run/infer.sock")  # below the device's folder
BUFFER = 64 << 10  # bytes
ANSWER_BYTES = 1 << 20  # of shared memory that are kept for answers beside the application's arrays
WAIT_S = 30.0  # for an answer, beyond the request's own timeout

Array = NDArray[Any]


class Answer(NamedTuple):
    """Outputs by name, the caller's to keep. Of several examples, example i is ``f"{prediction_id}.{i}"``."""

    model: str
    release: int
    prediction_id: str  # what late labels refer to
    outputs: Tensors


class SocketClient:
    """Asks the agent. Thread-safe, one request at a time: use a client a thread for more."""

    def __init__(self, path: str | Path) -> None:
        """``path``: the device's folder, or the socket in it. It connects when it is first used."""
        found = Path(path)
        self._path = found / SOCKET if found.is_dir() else found
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._wait_s = 0.0  # as the socket has it
        self._buffer = bytearray(BUFFER)
        self._own: _Region | None = None
        self._lent: _Region | None = None  # holds arrays of the application, which are its to write only
        self._attached: _Region | None = None  # the one that the agent knows
        self._answers = 0  # bytes of the largest answer so far that was worth sharing
        self._headers: dict[object, tuple[bytes, Header]] = {}

    def predict(self, inputs: Tensors, model: str = "", timeout_s: float | None = None, priority: int = 0) -> Answer:
        """Answer a batch (first dimension: examples) by the named model, or by the device's only one.

        Raises what the agent does (InputError, StateError, ModelError, OverloadError, DeadlineError, NotFoundError), or
        LinkError if it cannot be reached; the next call tries again.
        """
        options = (("model", model), ("timeout_s", timeout_s), ("priority", priority))
        form = (options, tuple([(name, array.dtype, array.shape) for name, array in inputs.items()]))
        with self._talking(WAIT_S + (timeout_s or 0)):
            header, head = self._headers.get(form) or self._make_header(form, dict(options), inputs)
            self._ask(header, head, inputs)
            return self._answer()

    def feedback(self, truths: Sequence[tuple[str, str]]) -> None:
        """Tell what earlier predictions should have been: (prediction id, label) each. Raises as ``predict`` does."""
        header = frames.header({"labels": list(truths)}, {})
        with self._talking(WAIT_S):
            self._send(frames.LABELS, header)
            self._receive()

    def shared(self, specs: Mapping[str, tuple[str, Sequence[int]]]) -> dict[str, Array]:
        """Arrays in shared memory, one a name, of (dtype, shape). Those that were made before are shared no more."""
        like = {name: np.broadcast_to(np.zeros((), dtype), tuple(shape)) for name, (dtype, shape) in specs.items()}
        head = frames.parse(frames.header({}, like))
        with self._lock:
            self._lent = _Region(_aligned(head.size) + max(self._answers, ANSWER_BYTES))
            return frames.views(head, self._lent.memory)

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            self._disconnect()

    def __enter__(self) -> "SocketClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_header(self, form: object, options: dict[str, Any], inputs: Tensors) -> tuple[bytes, Header]:
        header = frames.header({name: value for name, value in options.items() if value}, inputs)
        if len(header) > frames.MAX_HEADER:
            raise InputError(f"inputs: their description takes {len(header)} bytes, at most {frames.MAX_HEADER} may")
        made = header, frames.parse(header)
        if len(self._headers) < frames.HEADERS:
            self._headers[form] = made
        return made

    @contextmanager
    def _talking(self, wait_s: float) -> Iterator[None]:
        """Hold a connection. Whatever cuts an exchange short ends it, or the next one would read this one's answer."""
        with self._lock:
            try:
                self._connect(wait_s)
                yield
            except SkerryError:
                raise
            except OSError as error:
                self._disconnect()
                raise LinkError(f"{self._path}: {error}") from None
            except BaseException:
                self._disconnect()
                raise

    def _connect(self, wait_s: float) -> None:
        if self._socket is None:
            self._socket, self._attached, self._wait_s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), None, 0
            self._socket.connect(str(self._path))
        if self._wait_s != wait_s:  # by the kernel's timeouts: settimeout would cost a further call a frame
            limit = struct.pack("ll", int(wait_s), int(wait_s % 1 * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            self._wait_s = wait_s

    def _disconnect(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None

    def _ask(self, header: bytes, head: Header, inputs: Tensors) -> None:
        if max(head.size, self._answers) < frames.SHARED_BYTES:
            self._send(frames.ASK, header, frames.joined(head, inputs))
            return
        room = max(_aligned(head.size), frames.ALIGNMENT)
        if self._lent and frames.lie_in(head, inputs, self._lent.memory):
            self._attach(self._lent)
        else:
            self._attach(self._filled(head, inputs, room + max(self._answers, frames.ALIGNMENT)))
        self._write(PREFIX.pack(frames.ASK, IN_SHARED, len(header), head.size, room, b"") + header)

    def _filled(self, head: Header, inputs: Tensors, size: int) -> "_Region":
        """A region of so many bytes at least, with the inputs in it."""
        if self._own is None or self._own.size < size:
            self._own = _Region(size)
        frames.place(head, inputs, self._own.memory)
        return self._own

    def _attach(self, region: "_Region") -> None:
        """Let the agent see the region."""
        if self._attached is not region:
            self._send(frames.ATTACH)
            self._receive()
            socket.send_fds(self._connected(), [b"\0"], [region.descriptor])
            self._receive()
            self._attached = region

    def _answer(self) -> Answer:
        start, header, body = self._receive()
        head = frames.parse(header)
        if head.size != start.body or start.kind != frames.ANSWER:
            raise OSError("no answer, or one that is not as long as it says")
        if head.size >= frames.SHARED_BYTES:
            self._answers = max(self._answers, head.size)
        outputs = frames.views(head, body)
        if start.flags & IN_SHARED:
            outputs = {name: array.copy() for name, array in outputs.items()}
        return Answer(head.fields["model"], head.fields["release"], start.prediction_id.decode(), outputs)

    def _send(self, kind: int, header: bytes = b"", body: bytes = b"") -> None:
        self._write(PREFIX.pack(kind, 0, len(header), len(body), 0, b"") + header + body)

    def _write(self, data: bytes) -> None:
        self._connected().sendall(data)

    def _receive(self) -> tuple[Prefix, bytes, Buffer]:
        """Prefix, header and body of a frame. Raises the error that it tells of."""
        got = self._fill(self._buffer, 0, PREFIX.size)
        try:
            start = frames.prefix(self._buffer)
        except InputError as error:
            raise OSError(str(error)) from None
        inline = 0 if start.flags & IN_SHARED else start.body
        frame = bytearray(PREFIX.size + start.header + inline)
        frame[:got] = memoryview(self._buffer)[:got]
        self._fill(frame, got, len(frame))
        header, after = bytes(frame[PREFIX.size : PREFIX.size + start.header]), PREFIX.size + start.header
        if start.kind == frames.ERROR:
            raise frames.error_of(header)
        return start, header, self._lying(start) if start.flags & IN_SHARED else memoryview(frame)[after:]

    def _lying(self, start: Prefix) -> memoryview:
        if self._attached is None or start.room + start.body > self._attached.size:
            raise OSError("an answer in shared memory that does not exist")
        return memoryview(self._attached.memory)[start.room : start.room + start.body]

    def _fill(self, buffer: bytearray, got: int, needed: int) -> int:
        while got < needed:
            more = self._connected().recv_into(memoryview(buffer)[got:])
            if not more:
                raise OSError("the agent hung up")
            got += more
        return got

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise OSError("not connected")
        return self._socket


class _Region:
    """Shared memory of a fixed size; it goes away with the last array in it."""

    def __init__(self, size: int) -> None:
        if size > frames.MAX_SHARED:
            raise InputError(f"inputs: {size} bytes, at most {frames.MAX_SHARED} fit into shared memory")
        self.size = size
        self.descriptor = os.memfd_create("skerry", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        os.ftruncate(self.descriptor, size)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self.memory = mmap.mmap(self.descriptor, size)


def _aligned(size: int) -> int:
    return -(-size // frames.ALIGNMENT) * frames.ALIGNMENT
