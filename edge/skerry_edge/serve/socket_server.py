"""Serves frames on a Unix socket: a thread a connection, a bounded number of connections.

Who reaches the socket may ask; it lies in a folder that only the agent's user may enter. A client may attach one piece
of shared memory, a memfd that is sealed against shrinking: without that seal a client could crash the agent (SIGBUS).
"""

import contextlib
import fcntl
import logging
import mmap
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from skerry_edge.serve import frames, truths
from skerry_edge.serve.frames import IN_SHARED, PREFIX, Prefix
from skerry_shared.errors import ConfigError, InputError, OverloadError, SkerryError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.release import Manifest

log = logging.getLogger(__name__)

CONNECTIONS = 64  # a thread each, which costs about 100 KB
BACKLOG = 64
BUFFER = 64 << 10  # bytes; a frame that fits is read by one call
STALL_S = 10  # seconds that the rest of a frame may take, either way

Labels = Callable[[Sequence[tuple[str, str]]], None]  # late truths, as (prediction id, label)


class Prediction(Protocol):
    """What the engine answers."""

    @property
    def manifest(self) -> Manifest: ...  # noqa: D102
    @property
    def prediction_id(self) -> str: ...  # noqa: D102
    @property
    def outputs(self) -> Tensors: ...  # noqa: D102


class Engine(Protocol):
    """What answers; raises SkerryError."""

    def predict(  # noqa: D102
        self, inputs: Tensors, model: str = "", timeout_s: float | None = None, priority: int = 0
    ) -> Prediction: ...


class SocketServer:
    """Serves from construction until ``stop``."""

    def __init__(self, path: Path, engine: Engine, label: Labels) -> None:
        """Raises ConfigError if there can be no socket at ``path``."""
        self._engine, self._label = engine, label
        self._lock, self._open = threading.Lock(), dict[_Connection, threading.Thread]()
        self._listener = _listen(path)
        self.refused = 0  # connections beyond the limit
        self._acceptor = threading.Thread(target=self._accept, name="skerry-frames", daemon=True)
        self._acceptor.start()

    def stop(self, grace_s: float) -> None:
        """Take no more requests; let those in flight end, for so many seconds. Once is enough."""
        with contextlib.suppress(OSError):  # closed by an earlier stop
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        until = time.monotonic() + grace_s
        with self._lock:
            serving = list(self._open.items())
        for connection, _ in serving:
            connection.hang_up()
        for _, thread in serving:
            thread.join(max(0.0, until - time.monotonic()))

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:  # stopped
                return
            connection = _Connection(accepted, self._engine, self._label)
            thread = threading.Thread(target=self._serve, args=(connection,), name="skerry-frames", daemon=True)
            with self._lock:
                full = len(self._open) >= CONNECTIONS
                if not full:
                    self._open[connection] = thread
            if full:
                self.refused += 1
                connection.refuse(OverloadError(f"{CONNECTIONS} connections are open already"))
            else:
                thread.start()

    def _serve(self, connection: "_Connection") -> None:
        try:
            connection.serve()
        except OSError as error:
            log.info("a client went away: %s", error)
        finally:
            connection.close()
            with self._lock:
                del self._open[connection]


class _Connection:
    """One client, in a thread of its own."""

    def __init__(self, connection: socket.socket, engine: Engine, label: Labels) -> None:
        self._socket, self._engine, self._label = connection, engine, label
        self._buffer = bytearray(BUFFER)
        self._shared: mmap.mmap | None = None
        self._headers: dict[object, bytes] = {}
        stall = struct.pack("ll", STALL_S, 0)  # the kernel's timeouts need no further call a frame, unlike settimeout
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, option, stall)

    def serve(self) -> None:
        """Until the client hangs up. Raises OSError where it breaks the rules of the stream."""
        while frame := self._receive():
            start, buffer = frame
            try:
                self._act(start, buffer)
            except SkerryError as error:
                self._send_error(error)

    def refuse(self, error: SkerryError) -> None:
        """Tell why, and close."""
        with contextlib.suppress(OSError):  # it may be gone already, which is as well
            self._send_error(error)
        self.close()

    def hang_up(self) -> None:
        """Let ``serve`` return after the request that it is at."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Let go of socket and shared memory."""
        self._socket.close()
        self._shared = None  # unmapped when the last view of it is gone

    def _receive(self) -> tuple[Prefix, bytes | bytearray] | None:
        """A whole frame: its prefix, and a buffer that holds it; None at the end of the stream."""
        got = self._first_bytes()
        if not got:
            return None
        got = self._fill(self._buffer, got, PREFIX.size)
        try:
            start = frames.prefix(self._buffer)
        except InputError as error:
            self._send_error(error)
            raise OSError(str(error)) from None
        inline = 0 if start.flags & IN_SHARED else start.body
        end = PREFIX.size + start.header + inline
        if got > end:
            raise OSError("more than one request at a time")
        if end <= BUFFER:
            self._fill(self._buffer, got, end)
            return start, bytes(memoryview(self._buffer)[:end])  # a copy: whoever observes may keep views of it
        large = bytearray(end)
        large[:got] = memoryview(self._buffer)[:got]
        self._fill(large, got, end)
        return start, large

    def _first_bytes(self) -> int:
        while True:
            with contextlib.suppress(BlockingIOError):  # idle; the timeout is for frames that have begun
                return self._socket.recv_into(self._buffer)

    def _fill(self, buffer: bytearray, got: int, needed: int) -> int:
        while got < needed:
            more = self._socket.recv_into(memoryview(buffer)[got:])
            if not more:
                raise OSError("hung up within a frame")
            got += more
        return got

    def _act(self, start: Prefix, buffer: bytes | bytearray) -> None:
        if start.kind == frames.ASK:
            self._answer(start, buffer)
        elif start.kind == frames.LABELS:
            self._take_labels(frames.parse(bytes(buffer[PREFIX.size : PREFIX.size + start.header])).fields)
        elif start.kind == frames.ATTACH:
            self._attach()
        else:
            raise InputError(f"frame: kind {start.kind} is for the agent to send")

    def _answer(self, start: Prefix, buffer: bytes | bytearray) -> None:
        head = frames.parse(bytes(buffer[PREFIX.size : PREFIX.size + start.header]))
        if start.body != head.size:
            raise InputError(f"frame: its header names {head.size} bytes of tensors, its prefix {start.body}")
        if start.flags & IN_SHARED:
            inputs = frames.views(head, self._memory(head.size))
        else:
            inputs = frames.views(head, buffer, PREFIX.size + start.header)
        self._send_prediction(self._engine.predict(inputs, **_options(head.fields)), start.room)

    def _send_prediction(self, prediction: Prediction, room: int) -> None:
        manifest, outputs = prediction.manifest, prediction.outputs
        form = tuple([(name, array.shape) for name, array in outputs.items()])
        key = (manifest.workload, manifest.release, form)
        header = self._headers.get(key) or self._make_header(key, manifest, outputs)
        head, name = frames.parse(header), prediction.prediction_id.encode()
        if room and head.size >= frames.SHARED_BYTES and self._shared and room + head.size <= len(self._shared):
            frames.place(head, outputs, self._shared, room)
            self._socket.sendall(PREFIX.pack(frames.ANSWER, IN_SHARED, len(header), head.size, room, name) + header)
            return
        body = frames.joined(head, outputs)
        self._socket.sendall(PREFIX.pack(frames.ANSWER, 0, len(header), len(body), 0, name) + header + body)

    def _make_header(self, key: object, manifest: Manifest, outputs: Tensors) -> bytes:
        made = frames.header({"model": manifest.workload, "release": manifest.release}, outputs)
        if len(self._headers) < frames.HEADERS:
            self._headers[key] = made
        return made

    def _take_labels(self, fields: Any) -> None:
        pairs = fields.get("labels")
        self._label(truths.checked(pairs if isinstance(pairs, list) else ()))
        self._send(frames.READY)

    def _attach(self) -> None:
        self._send(frames.READY)  # so that the descriptor cannot arrive among bytes that were read already
        _, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        if not descriptors:
            raise OSError("no descriptor came")
        try:
            self._shared = _mapped(descriptors[0])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._send(frames.READY)

    def _memory(self, size: int) -> mmap.mmap:
        if self._shared is None or size > len(self._shared):
            raise InputError(f"frame: {size} bytes are said to be in shared memory, which has not as many")
        return self._shared

    def _send(self, kind: int) -> None:
        self._socket.sendall(PREFIX.pack(kind, 0, 0, 0, 0, b""))

    def _send_error(self, error: SkerryError) -> None:
        header = frames.error_header(error)
        self._socket.sendall(PREFIX.pack(frames.ERROR, 0, len(header), 0, 0, b"") + header)


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # of an agent that was killed; the folder is locked by this one
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise ConfigError(f"{path}: cannot be served on: {error}") from None
    path.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


def _mapped(descriptor: int) -> mmap.mmap:
    """The memory behind a memfd. Raises InputError unless its size is fixed and within the limit."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        raise InputError("shared memory: not a memfd") from None
    size = os.fstat(descriptor).st_size
    if not seals & fcntl.F_SEAL_SHRINK or not 0 < size <= frames.MAX_SHARED:
        raise InputError(f"shared memory: needs F_SEAL_SHRINK and 1 to {frames.MAX_SHARED} bytes, got {size}")
    return mmap.mmap(descriptor, size)


def _options(fields: Any) -> dict[str, Any]:
    """What a request may say besides its tensors. Raises InputError that names the field."""
    known: dict[str, tuple[type, ...]] = {"model": (str,), "timeout_s": (int, float), "priority": (int,)}
    for name, value in fields.items():
        if name not in known or not isinstance(value, known[name]) or isinstance(value, bool):
            raise InputError(f"{name}: {value!r} is not possible; known: {', '.join(known)}")
    return dict(fields)
