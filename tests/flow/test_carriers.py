"""Both carriers, each with its transport, through the one contract suite."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from skerry_cloud.adapters import mosquitto
from skerry_cloud.adapters.carrier_grpc import GrpcCarrier
from skerry_cloud.adapters.carrier_mqtt import MqttCarrier
from skerry_edge.adapters.transport_grpc import GrpcTransport
from skerry_edge.adapters.transport_mqtt import MqttTransport
from skerry_shared import wire
from skerry_shared.errors import LinkError, StateError
from skerry_shared.identity import Authority, new_key, private_pem, request
from skerry_shared.ports.carrier import TlsFiles, Transport
from skerry_shared.telemetry import Down
from skerry_shared.testing.carrier import CHECKS, MemoryInbox, Pair
from skerry_shared.testing.faults import FaultProxy

NOW = datetime.now(timezone.utc)
FLEET = "north"
needs_mosquitto = pytest.mark.skipif(mosquitto.found() is None, reason="mosquitto is not installed")


@dataclass(frozen=True)
class Fleet:
    """Certificates of one authority, in a folder."""

    folder: Path
    authority: Authority

    @classmethod
    def new(cls, folder: Path) -> "Fleet":
        folder.mkdir()
        return cls(folder, Authority.new(FLEET, NOW))

    def client(self, name: str) -> TlsFiles:
        key = new_key()
        return self._files(name, self.authority.sign_request(request(name, key), name, NOW, 1), private_pem(key))

    def server(self) -> TlsFiles:
        key = new_key()
        certificate = self.authority.issue_server(key, ("localhost", "127.0.0.1"), NOW, 1)
        return self._files("server", certificate, private_pem(key))

    def _files(self, name: str, certificate: bytes, key: bytes) -> TlsFiles:
        files = TlsFiles(*(self.folder / f"{name}.{kind}" for kind in ("authority", "certificate", "key")))
        files.authority.write_bytes(self.authority.certificate.public_bytes(Encoding.PEM))
        files.certificate.write_bytes(certificate)
        files.key.write_bytes(key)
        return files


def grpc_carrier(server: TlsFiles, permitted: tuple[str, ...] = ("a", "b"), port: int = 0) -> GrpcCarrier:
    async def permit(device: str) -> bool:
        return device in permitted

    pems = (server.certificate.read_bytes(), server.key.read_bytes(), server.authority.read_bytes())
    return GrpcCarrier(f"localhost:{port}", *pems, permit)


@asynccontextmanager
async def grpc_pair(folder: Path) -> AsyncIterator[Pair]:
    fleet, strangers, port = Fleet.new(folder / "fleet"), Fleet.new(folder / "strangers"), free_port()
    async with FaultProxy("localhost", port) as network:

        def dial(files: TlsFiles) -> Transport:
            return GrpcTransport(f"localhost:{network.port}", files)

        def stranger(device: str) -> Transport:
            theirs = strangers.client(device)
            return dial(TlsFiles(fleet.server().authority, theirs.certificate, theirs.key))

        yield Pair(
            grpc_carrier(fleet.server(), port=port), lambda who, _="": dial(fleet.client(who)), stranger, network
        )


@asynccontextmanager
async def mqtt_pair(folder: Path) -> AsyncIterator[Pair]:
    fleet, strangers, port = Fleet.new(folder / "fleet"), Fleet.new(folder / "strangers"), free_port()
    broker = mosquitto.run_mosquitto(folder / "broker", port, FLEET, fleet.server())
    async with broker, FaultProxy("localhost", port) as network:

        def dial(name: str, files: TlsFiles) -> Transport:
            return MqttTransport("localhost", network.port, FLEET, name, files)

        def stranger(device: str) -> Transport:
            theirs = strangers.client(device)
            return dial(device, TlsFiles(fleet.server().authority, theirs.certificate, theirs.key))

        carrier = MqttCarrier("localhost", port, FLEET, fleet.client("cloud"))
        yield Pair(carrier, lambda who, claimed="": dial(claimed or who, fleet.client(who)), stranger, network)


PairOf = Callable[[Path], AbstractAsyncContextManager[Pair]]


@pytest.mark.parametrize("pair_of", [grpc_pair, pytest.param(mqtt_pair, marks=needs_mosquitto)])
@pytest.mark.parametrize("check", CHECKS)
def test_contract(pair_of: PairOf, check: Callable[[Pair], Awaitable[None]], tmp_path: Path) -> None:
    async def run() -> None:
        async with pair_of(tmp_path) as pair:
            await asyncio.wait_for(check(pair), 60)

    asyncio.run(run())


def test_grpc_refuses_a_device_that_is_not_permitted(tmp_path: Path) -> None:
    async def run() -> None:
        fleet = Fleet.new(tmp_path / "fleet")
        carrier = grpc_carrier(fleet.server(), permitted=())
        async with carrier.serve(MemoryInbox()):
            transport = GrpcTransport(f"localhost:{carrier.port}", fleet.client("a"))
            with pytest.raises(LinkError, match="PERMISSION_DENIED"):
                async with transport.connect():
                    pass

    asyncio.run(run())


def test_grpc_says_that_its_port_is_taken(tmp_path: Path) -> None:
    async def run() -> None:
        server = Fleet.new(tmp_path / "fleet").server()
        first = grpc_carrier(server)
        async with first.serve(MemoryInbox()):
            with pytest.raises(StateError, match="cannot listen"):
                async with grpc_carrier(server, port=first.port).serve(MemoryInbox()):
                    pass

    asyncio.run(run())


@needs_mosquitto
def test_mosquitto_says_why_it_does_not_start(tmp_path: Path) -> None:
    async def run() -> None:
        server = Fleet.new(tmp_path / "fleet").server()
        port = free_port()
        async with mosquitto.run_mosquitto(tmp_path / "one", port, FLEET, server):
            with pytest.raises(StateError, match="in use"):
                async with mosquitto.run_mosquitto(tmp_path / "two", port, FLEET, server):
                    pass

    asyncio.run(run())


@needs_mosquitto
def test_mqtt_finds_nobody_listening(tmp_path: Path) -> None:
    """A broker without its cloud is no link: messages would be confirmed and then lost."""

    async def run() -> None:
        async with mqtt_pair(tmp_path) as pair:
            with pytest.raises(LinkError, match="No matching subscribers"):
                async with pair.dial("a").connect() as link:
                    while True:
                        await link.send(b"up")

    asyncio.run(run())


@needs_mosquitto
def test_desired_is_retained_for_a_device_that_links_later(tmp_path: Path) -> None:
    async def run() -> None:
        inbox, desired = MemoryInbox(), wire.encode(Down(desired=b"assignment"))
        async with mqtt_pair(tmp_path) as pair, pair.carrier.serve(inbox):
            async with pair.dial("a").connect():
                await inbox.until(lambda seen: seen.online == {"a": True})
                assert await pair.carrier.send("a", desired)
            async with pair.dial("a").connect() as link:
                async for down in link.receive():
                    assert down == desired
                    break

    asyncio.run(run())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
