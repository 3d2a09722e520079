"""A small HTTP/1.1 server: one thread a connection, keep-alive, one write a reply, a limit on everything.

It knows what the inference protocol needs and refuses the rest: bodies come with a Content-Length (411 without, so that
there is one way only to tell where a request ends), nothing is folded, trailed or upgraded. There is no ``Date``: a
device may have no clock that is right (RFC 9110, 6.6.1). A page in a browser, known by its ``Origin``, is turned away,
since it would speak for whoever looks at it, from inside the device.
"""

import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from skerry_shared.errors import ConfigError, InputError

log = logging.getLogger(__name__)

MAX_HEAD = 16 << 10  # bytes of a request line and its headers
MAX_HEADERS = 64
MAX_BODY = 64 << 20  # bytes, as of a gRPC message
MAX_CONNECTIONS = 64  # and threads; one more is told so and closed
BACKLOG = 128  # connections that the kernel keeps until they are accepted
IDLE_S = 60.0  # without a byte, between requests or within one
CHUNK = 64 << 10  # bytes of one read

TARGET = re.compile(rb"/[\x21-\x7e]*")
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
NUMBER = re.compile(r"[0-9]{1,18}")
JSON = "application/json"


@dataclass(frozen=True)
class Request:
    """Header names are in lower case; ``target`` is the path with its query, as it was sent."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: memoryview


@dataclass(frozen=True)
class Reply:
    """The parts of ``body`` are sent one behind the other."""

    status: int
    body: Sequence[bytes] = ()
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpError(InputError):
    """A request that is refused with this status, after which the connection is closed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def error(status: int, text: str, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply whose body is {"error": text}."""
    return Reply(status, [json.dumps({"error": text}).encode()], JSON, headers or {})


class HttpServer:
    """Answers by ``respond``, which is called by many threads and raises nothing. Serves once it is constructed."""

    def __init__(
        self, address: str, port: int, respond: Callable[[Request], Reply],
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:  # fmt: skip
        """Port 0: any free one. ``tls`` gives each connection its context; None: in the clear.

        Raises ConfigError if the address cannot be listened on.
        """
        self._respond, self._tls = respond, tls
        self._connections: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._lock, self._closing = threading.Lock(), False
        self._listener = _listen(address, port)
        self.port: int = self._listener.getsockname()[1]
        self.refused = 0  # connections, for there were too many
        self._acceptor = threading.Thread(target=self._accept, name="skerry-http", daemon=True)
        self._acceptor.start()

    def stop(self, grace_s: float) -> None:
        """Take no more requests; those in flight may finish within ``grace_s`` seconds, then they are cut."""
        with self._lock:
            self._closing = True
            connections, threads = list(self._connections), list(self._threads)
        _shut(self._listener, socket.SHUT_RDWR)  # wakes the acceptor; closing alone does not
        self._acceptor.join()
        self._listener.close()
        for connection in connections:
            _shut(connection, socket.SHUT_RD)
        ends = time.monotonic() + grace_s
        for thread in threads:
            thread.join(max(0.0, ends - time.monotonic()))
        for connection in connections:
            _shut(connection, socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as problem:
                if self._closing:
                    return
                log.warning("connection not accepted: %s", problem)  # out of descriptors, or it is gone already
                time.sleep(0.1)
                continue
            self._open(connection)

    def _open(self, connection: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=[connection], name="skerry-http-connection", daemon=True)
        with self._lock:
            full = self._closing or len(self._threads) >= MAX_CONNECTIONS
            if not full:
                self._connections.add(connection)
                self._threads.add(thread)
        if full:
            self._refuse(connection)
        else:
            thread.start()

    def _refuse(self, connection: socket.socket) -> None:
        self.refused += 1
        connection.settimeout(0)
        with connection:
            if not self._tls:  # a refusal is not worth a handshake
                text = f"{MAX_CONNECTIONS} connections are open already; keep one alive, or come again later"
                _try_send(connection, error(503, text, {"Retry-After": "1"}))

    def _serve(self, raw: socket.socket) -> None:
        connection = raw
        try:
            raw.settimeout(IDLE_S)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self._secured(raw)
            self._converse(connection)
        except OSError as problem:  # the peer's end: reset, timeout, or no right certificate
            log.debug("connection ended: %s", problem)
        finally:
            connection.close()
            with self._lock:
                self._connections -= {raw, connection}
                self._threads.discard(threading.current_thread())

    def _secured(self, raw: socket.socket) -> socket.socket:
        if not self._tls:
            return raw
        connection = self._tls().wrap_socket(raw, server_side=True)
        with self._lock:
            self._connections.add(connection)
        return connection

    def _converse(self, connection: socket.socket) -> None:
        reader, last = _Reader(connection), False
        while not last:
            try:
                request = reader.request()
            except HttpError as refused:
                _try_send(connection, error(refused.status, str(refused)))
                _linger(connection)
                return
            if request is None:
                return
            last = self._closing or "close" in request.headers.get("connection", "").lower()
            reply = self._respond(request)
            connection.sendall(_encoded(reply, last, with_body=request.method != "HEAD"))


class _Reader:
    """Takes requests off a connection, whatever pieces they come in."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._buffer = connection, bytearray()

    def request(self) -> Request | None:
        """The next request; None if the peer is done. Raises HttpError or OSError."""
        head = self._head()
        if head is None:
            return None
        method, target, headers = parse_head(head)
        length = body_length(method, headers)
        if length and headers.get("expect", "").lower() == "100-continue":
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return Request(method, target, headers, self._body(length))

    def _head(self) -> bytes | None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD:
                break
            chunk = self._connection.recv(CHUNK)
            if not chunk:
                return None
            self._buffer += chunk
        if not 0 <= end <= MAX_HEAD:
            raise HttpError(431, f"request line and headers: more than {MAX_HEAD} bytes")
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        return head

    def _body(self, length: int) -> memoryview:
        body = bytearray(length)
        taken = min(length, len(self._buffer))
        body[:taken] = self._buffer[:taken]
        del self._buffer[:taken]
        rest = memoryview(body)[taken:]
        while rest:
            count = self._connection.recv_into(rest)
            if not count:
                raise ConnectionError("the peer left within a request")
            rest = rest[count:]
        return memoryview(body).toreadonly()


def parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, target and headers of a request's head, without its final blank line. Raises HttpError."""
    first, *lines = head.lstrip(b"\r\n").split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or not TOKEN.fullmatch(parts[0]) or not TARGET.fullmatch(parts[1]):
        raise HttpError(400, "request line: need METHOD /path HTTP/1.1")
    if parts[2] != b"HTTP/1.1":
        raise HttpError(505, "request line: need HTTP/1.1")
    if len(lines) > MAX_HEADERS:
        raise HttpError(431, f"headers: {len(lines)}; at most {MAX_HEADERS}")
    headers: dict[str, str] = {}
    for line in lines:
        name, value = _header(line)
        if name in headers and name in ("content-length", "transfer-encoding", "host"):
            raise HttpError(400, f"header {name!r}: given twice")
        headers[name] = value
    return parts[0].decode(), parts[1].decode(), headers


def body_length(method: str, headers: Mapping[str, str]) -> int:
    """How many bytes of body follow the head. Raises HttpError, also where the head alone decides to refuse."""
    if "origin" in headers:
        raise HttpError(403, "header 'origin': pages in a browser may not ask here")
    if "host" not in headers:
        raise HttpError(400, "header 'host': missing")
    length = headers.get("content-length")
    if "transfer-encoding" in headers or (length is None and method in ("POST", "PUT", "PATCH")):
        raise HttpError(411, "header 'content-length': needed; bodies are taken whole, not in chunks")
    if not NUMBER.fullmatch(length or "0"):
        raise HttpError(400, "header 'content-length': not a number of bytes")
    if int(length or 0) > MAX_BODY:
        raise HttpError(413, f"body: {length} bytes; at most {MAX_BODY}")
    return int(length or 0)


def _header(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon or not TOKEN.fullmatch(name) or b"\0" in value or b"\r" in value or b"\n" in value:
        raise HttpError(400, "headers: need lines of 'name: value'")
    return name.decode().lower(), value.strip(b" \t").decode("latin-1")


def _encoded(reply: Reply, last: bool, with_body: bool = True) -> bytes:
    status = HTTPStatus(reply.status)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"Content-Length: {sum(map(len, reply.body))}"]
    if reply.body:
        lines.append(f"Content-Type: {reply.content_type}")
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    if last:
        lines.append("Connection: close")
    return b"".join(["\r\n".join([*lines, "", ""]).encode("latin-1"), *(reply.body if with_body else ())])


def _try_send(connection: socket.socket, reply: Reply) -> None:
    try:
        connection.sendall(_encoded(reply, last=True))
    except OSError as problem:
        log.debug("refusal not sent: %s", problem)


def _linger(connection: socket.socket) -> None:
    """Read on a little: closing with unread bytes resets the connection, and the peer would never see the refusal."""
    _shut(connection, socket.SHUT_WR)
    connection.settimeout(1.0)
    left = MAX_HEAD * 16
    while left > 0 and (chunk := connection.recv(CHUNK)):
        left -= len(chunk)


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as problem:
        raise ConfigError(f"{address}:{port}: cannot be served on: {problem}") from None


def _shut(connection: socket.socket, how: int) -> None:
    """Shut the socket below a TLS connection too, without ending TLS for the thread that still writes."""
    try:
        socket.socket.shutdown(connection, how)
    except OSError as problem:
        log.debug("connection has ended already: %s", problem)
