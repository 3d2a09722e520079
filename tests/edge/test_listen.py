"""Where the servers may listen: loopback in the clear; anywhere else only with certificates on both sides."""

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from skerry_edge.config import AgentConfig, Listen
from skerry_edge.infer.engine import Engine
from skerry_edge.serve import listen, oip
from skerry_edge.serve.catalog import Catalog
from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared import bundle, config, identity
from skerry_shared.errors import ConfigError
from skerry_shared.identity import Authority
from skerry_shared.ports.carrier import TlsFiles

NOW = datetime.now(timezone.utc)
BASE = {"fleet": "f", "device": "d", "profile": "p", "repository": "r", "gateway": "g:1"}


@pytest.mark.parametrize(
    "table", [{}, {"address": "127.0.0.2"}, {"address": "::1"}, {"address": "0.0.0.0", "mtls": True}]
)
def test_places_that_are_allowed(table: dict[str, Any]) -> None:
    assert config.decode(AgentConfig, BASE | {"listen": table}, "agent.toml").listen == Listen(**table)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "localhost", ""])
def test_off_this_machine_needs_mtls(address: str) -> None:
    with pytest.raises(ConfigError, match="address"):
        config.decode(AgentConfig, BASE | {"listen": {"address": address}}, "agent.toml")


@dataclass(frozen=True)
class Fleet:
    folder: Path
    authority: Authority

    @classmethod
    def new(cls, folder: Path) -> "Fleet":
        folder.mkdir()
        return cls(folder, Authority.new("harbour", NOW))

    def member(self, name: str) -> TlsFiles:
        key = identity.new_key()
        files = TlsFiles(*(self.folder / f"{name}.{kind}" for kind in ("authority", "pem", "key")))
        files.authority.write_bytes(self.authority.certificate.public_bytes(serialization.Encoding.PEM))
        files.certificate.write_bytes(self.authority.sign_request(identity.request(name, key), name, NOW, 1))
        files.key.write_bytes(identity.private_pem(key))
        return files


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet.new(tmp_path / "fleet")


@pytest.fixture
def ports(engine: Engine, tiny: bundle.Bundle, fleet: Fleet) -> Iterator[tuple[int, int]]:
    place, models = listen.Place("127.0.0.1", fleet.member("pump-7")), Catalog(engine)
    server, port = listen.grpc_server(place, 0, oip.handlers(models))
    rest = listen.http_server(place, 0, models)
    yield port, rest.port
    server.stop(None).wait()
    rest.stop(0)


def ask_grpc(port: int, files: TlsFiles, credentials: bool = True) -> bool:
    pair = (files.key.read_bytes(), files.certificate.read_bytes()) if credentials else (None, None)
    secure = grpc.ssl_channel_credentials(files.authority.read_bytes(), *pair)
    name = [("grpc.ssl_target_name_override", identity.host_of("pump-7"))]
    with grpc.secure_channel(f"127.0.0.1:{port}", secure, name) as channel:
        live: Any = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        return pb.ServerLiveResponse.FromString(live(b"", timeout=10)).live


def ask_http(port: int, files: TlsFiles, credentials: bool = True, name: str = "pump-7") -> int:
    context = ssl.create_default_context(cafile=str(files.authority))
    if credentials:
        context.load_cert_chain(files.certificate, files.key)
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
    connection.connect = lambda: _connect(connection, context, identity.host_of(name))  # type: ignore[method-assign]
    try:
        connection.request("GET", "/v2/models/tiny/ready")
        return connection.getresponse().status
    finally:
        connection.close()


def _shown(port: int, files: TlsFiles) -> bytes | None:
    context = ssl.create_default_context(cafile=str(files.authority))
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), 10) as raw,
        context.wrap_socket(raw, server_hostname=identity.host_of("pump-7")) as secured,
    ):
        return secured.getpeercert(binary_form=True)


def _connect(connection: http.client.HTTPSConnection, context: ssl.SSLContext, name: str) -> None:
    http.client.HTTPConnection.connect(connection)
    connection.sock = context.wrap_socket(connection.sock, server_hostname=name)


def test_a_member_of_the_fleet_is_let_in(ports: tuple[int, int], fleet: Fleet) -> None:
    assert ask_grpc(ports[0], fleet.member("pump-8"))
    assert ask_http(ports[1], fleet.member("pump-8")) == 200


@pytest.mark.parametrize("who", ["nobody", "a stranger", "in the clear"])
def test_nobody_else_is(ports: tuple[int, int], fleet: Fleet, tmp_path: Path, who: str) -> None:
    files = fleet.member("pump-8")
    if who == "a stranger":
        stranger = Fleet.new(tmp_path / "other").member("pump-8")
        files = TlsFiles(files.authority, stranger.certificate, stranger.key)
    asks: list[Callable[[], object]] = [
        lambda: ask_grpc(ports[0], files, who != "nobody"),
        lambda: ask_http(ports[1], files, who != "nobody"),
    ]
    if who == "in the clear":
        plain = http.client.HTTPConnection("127.0.0.1", ports[1], timeout=10)
        asks = [lambda: plain.request("GET", "/v2") or (plain.getresponse().read() and None)]  # type: ignore[func-returns-value]
    for ask in asks:
        with pytest.raises((grpc.RpcError, OSError, http.client.HTTPException)):
            ask()
    assert ask_http(ports[1], fleet.member("pump-9")) == 200  # and it goes on


def test_a_renewed_certificate_is_shown_without_a_restart(ports: tuple[int, int], fleet: Fleet) -> None:
    asked = fleet.member("pump-8")
    before = [_shown(port, asked) for port in ports]
    fleet.member("pump-7")  # writes another key and certificate over what is served
    after = [_shown(port, asked) for port in ports]
    assert before[0] == before[1] != after[0] == after[1]


def test_a_device_cannot_be_taken_for_another(ports: tuple[int, int], fleet: Fleet) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        ask_http(ports[1], fleet.member("pump-8"), name="pump-9")


def test_a_taken_port_is_a_configuration_error(ports: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="cannot be served on"):
        listen.grpc_server(listen.Place("127.0.0.1"), ports[0])


def test_more_calls_than_may_wait_are_shed(
    engine: Engine, tiny: bundle.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "WAITING", 0)
    server, port = listen.grpc_server(listen.Place("127.0.0.1"), 0, oip.handlers(Catalog(engine)))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        live: Any = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        with pytest.raises(grpc.RpcError) as caught:
            live(b"", timeout=10)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    server.stop(None).wait()
