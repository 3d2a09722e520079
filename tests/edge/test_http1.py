"""The HTTP server by bytes on a socket: what a hostile or a clumsy peer may send, and what it hears."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_edge.serve import http1
from skerry_edge.serve.http1 import HttpError, HttpServer, Reply, Request, parse_head
from skerry_shared.errors import ConfigError


@pytest.fixture
def server() -> Iterator[HttpServer]:
    served = HttpServer(
        "127.0.0.1", 0, lambda request: Reply(200, [request.method.encode(), b" ", bytes(request.body)])
    )
    yield served
    served.stop(0)


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def exchange(server: HttpServer, sent: bytes) -> bytes:
    """All that comes until the server closes."""
    with closing(connect(server)) as peer:
        peer.sendall(sent)
        return b"".join(iter(lambda: peer.recv(65536), b""))


POST = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n"


def test_keep_alive_takes_requests_one_behind_the_other(server: HttpServer) -> None:
    replies = exchange(server, POST + b"\r\nabc" + POST + b"Connection: close\r\n\r\ndef")
    assert replies.count(b"HTTP/1.1 200 OK") == 2
    assert b"POST abc" in replies
    assert replies.endswith(b"POST def")


def test_a_request_may_come_byte_by_byte(server: HttpServer) -> None:
    with closing(connect(server)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(sent := POST + b"Connection: close\r\n\r\nabc")):
            peer.sendall(sent[i : i + 1])
        assert b"".join(iter(lambda: peer.recv(65536), b"")).endswith(b"POST abc")


def test_a_peer_that_waits_for_continue_is_told_to(server: HttpServer) -> None:
    with closing(connect(server)) as peer:
        peer.sendall(POST + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
        assert peer.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.sendall(b"abc")
        assert b"".join(iter(lambda: peer.recv(65536), b"")).endswith(b"POST abc")


def test_head_has_no_body(server: HttpServer) -> None:
    reply = exchange(server, b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b"Content-Length: 5" in reply
    assert reply.endswith(b"\r\n\r\n")


REFUSED = {
    "no version": (b"GET /\r\n\r\n", 400),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: h\r\n\r\n", 505),
    "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "host twice": (b"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 4\r\n\r\nabc", 400),
    "no length": (b"POST / HTTP/1.1\r\nHost: h\r\n\r\n", 411),
    "chunks": (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "chunks and a length": (POST + b"Transfer-Encoding: chunked\r\n\r\nabc", 411),
    "negative length": (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
    "huge length": (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n", 413),
    "folded header": (b"GET / HTTP/1.1\r\nHost: h\r\n folded: x\r\n\r\n", 400),
    "space before the colon": (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
    "bare newlines": (b"GET / HTTP/1.1\nHost: h\r\n\r\n", 400),
    "a page in a browser": (POST + b"Origin: https://evil.example\r\n\r\nabc", 403),
    "endless head": (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * (http1.MAX_HEAD + http1.CHUNK), 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_gets_a_reason_and_the_connection_ends(server: HttpServer, case: str) -> None:
    sent, status = REFUSED[case]
    reply = exchange(server, sent + b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
    assert reply.startswith(f"HTTP/1.1 {status} ".encode())
    assert b'{"error": ' in reply
    assert reply.count(b"Content-Length: ") == 1


def test_a_peer_that_leaves_within_a_request_harms_nobody(server: HttpServer) -> None:
    for part in (b"", b"GET", POST, POST + b"\r\na"):
        with closing(connect(server)) as peer:
            peer.sendall(part)
    assert exchange(server, POST + b"Connection: close\r\n\r\nabc").endswith(b"POST abc")


def test_one_connection_too_many_is_told_and_counted(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "MAX_CONNECTIONS", 1)
    with closing(connect(server)) as first:
        first.sendall(POST + b"\r\nabc")
        assert first.recv(1024).endswith(b"POST abc")
        with closing(connect(server)) as second:
            assert second.recv(1024).startswith(b"HTTP/1.1 503 ")
        assert server.refused == 1
        first.sendall(POST + b"\r\nabc")
        assert first.recv(1024).endswith(b"POST abc")


def test_stopping_lets_a_request_in_flight_finish() -> None:
    running, may_answer = threading.Event(), threading.Event()

    def respond(_: Request) -> Reply:
        running.set()
        assert may_answer.wait(10)
        return Reply(200, [b"late"])

    server = HttpServer("127.0.0.1", 0, respond)
    with closing(connect(server)) as idle, closing(connect(server)) as busy:
        busy.sendall(POST + b"\r\nabc")
        assert running.wait(10)
        stopping = threading.Thread(target=server.stop, args=[10.0])
        stopping.start()
        assert idle.recv(1) == b""  # an idle connection ends at once
        may_answer.set()
        assert b"".join(iter(lambda: busy.recv(65536), b"")).endswith(b"late")
        stopping.join(10)
        assert not stopping.is_alive()
    with pytest.raises(ConnectionError):
        connect(server)


def test_a_taken_port_is_a_configuration_error(server: HttpServer) -> None:
    with pytest.raises(ConfigError, match=f"127.0.0.1:{server.port}: cannot be served on"):
        HttpServer("127.0.0.1", server.port, lambda _: Reply(200))


@given(st.binary(max_size=200))
def test_any_head_is_parsed_or_refused(head: bytes) -> None:
    try:
        method, target, headers = parse_head(head)
    except HttpError:
        return
    assert method and target.startswith("/")
    assert all(name == name.lower() and "\r" not in value + name for name, value in headers.items())
