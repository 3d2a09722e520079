"""Both carriers, each with its transport, through the one contract suite."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
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
from skerry_shared.ports.carrier import Link, TlsFiles, Transport
from skerry_shared.telemetry import Down
from skerry_shared.testing.carrier import CHECKS, MemoryInbox, Pair, ack, desired
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
    broker = mosquitto.run_mosquitto(folder / "broker", port, FLEET, fleet.server(), workers=2)
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


class Clumsy(MemoryInbox):
    """Fails at messages that say so, and at the first presence of a device called "b"."""

    bad = b"bad"

    async def arrived(self, device: str, up: bytes) -> None:
        if up == self.bad:
            raise RuntimeError("clumsy")
        await super().arrived(device, up)

    async def present(self, device: str, online: bool) -> None:
        first = device not in self.online
        await super().present(device, online)
        if device == "b" and first:
            raise RuntimeError("clumsy")


@pytest.mark.parametrize("pair_of", [grpc_pair, pytest.param(mqtt_pair, marks=needs_mosquitto)])
def test_a_message_that_cannot_be_taken_ends_nothing(
    pair_of: PairOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        inbox = Clumsy()
        async with pair_of(tmp_path) as pair, pair.carrier.serve(inbox), pair.dial("a").connect() as link:
            for message in (b"1", inbox.bad, b"2"):
                await link.send(message)
            await inbox.until(lambda seen: len(seen.messages) == 2)
            assert inbox.messages == [("a", b"1"), ("a", b"2")]
            assert inbox.online == {"a": True}

    asyncio.run(run())
    (said,) = [record for record in caplog.records if "could not be taken" in record.getMessage()]
    assert said.exc_info


@pytest.mark.parametrize("pair_of", [grpc_pair, pytest.param(mqtt_pair, marks=needs_mosquitto)])
def test_a_device_whose_presence_could_not_be_told_can_link_again(pair_of: PairOf, tmp_path: Path) -> None:
    async def run() -> None:
        inbox = Clumsy()
        async with pair_of(tmp_path) as pair, pair.carrier.serve(inbox):
            with suppress(LinkError):  # gRPC says at once that it went wrong
                async with pair.dial("b").connect():
                    await inbox.until(lambda seen: "b" in seen.online)
            await inbox.until(lambda seen: seen.online["b"] is False)
            assert not await pair.carrier.send("b", wire.encode(Down(desired=b"assignment")))
            async with pair.dial("b").connect() as link:
                await link.send(b"1")
                await inbox.until(lambda seen: seen.messages == [("b", b"1")])

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


def brokers(config: Path) -> list[int]:
    """Ids of the processes that run with this configuration."""
    command = str(config).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            if command in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


@needs_mosquitto
def test_a_broker_that_is_killed_comes_back_and_so_do_its_devices(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        inbox, config = MemoryInbox(), tmp_path / "broker/mosquitto.conf"
        async with mqtt_pair(tmp_path) as pair, pair.carrier.serve(inbox):
            before = 0
            for message in (b"1", b"2"):
                async with pair.dial("a").connect() as link:
                    await link.send(message)
                    await inbox.until(lambda seen: len(seen.messages) == int(message))  # noqa: B023 (waits here)
                    (pid,) = brokers(config)
                    assert pid != before
                    before = pid
                    os.kill(pid, signal.SIGKILL)
                    with pytest.raises(LinkError):
                        async for _ in link.receive():
                            pass
                await inbox.until(lambda seen: seen.online == {"a": False})
                await linked(pair, inbox)
        assert brokers(config) == []

    async def linked(pair: Pair, inbox: MemoryInbox) -> None:
        for _ in range(100):
            with suppress(LinkError):
                async with pair.dial("a").connect():
                    return await inbox.until(lambda seen: seen.online == {"a": True})
            await asyncio.sleep(0.1)
        raise AssertionError("nobody can link again")

    asyncio.run(run())
    said = [record for record in caplog.records if "ended by itself, exit code -9" in record.getMessage()]
    assert len(said) == 2 and all(record.levelno == logging.ERROR for record in said)


@needs_mosquitto
def test_a_broker_that_keeps_ending_is_started_less_and_less_often(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        config = tmp_path / "broker/mosquitto.conf"
        server = Fleet.new(tmp_path / "fleet").server()
        async with mosquitto.run_mosquitto(tmp_path / "broker", free_port(), FLEET, server):
            config.write_text("nonsense\n")
            (pid,) = brokers(config)
            os.kill(pid, signal.SIGKILL)
            for _ in range(400):
                if len(waits()) < 4:
                    await asyncio.sleep(0.05)

    def waits() -> list[float]:
        said = [record.args for record in caplog.records if "ended by itself" in record.msg]
        return [args[1] for args in said if isinstance(args, tuple) and isinstance(args[1], float)]

    monkeypatch.setattr(mosquitto, "RESTART", (0.1, 0.4))
    asyncio.run(run())
    assert waits()[:4] == [0.1, 0.2, 0.4, 0.4]


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


class Share(MemoryInbox):
    """What one of several processes gets, and whom it sees beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.beside: set[str] = set()

    async def others(self, name: str, online: bool) -> None:
        (self.beside.add if online else self.beside.discard)(name)
        self._change()


class Harbour:
    """A broker, devices that are linked to it, and processes that share them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.fleet, self.port = folder, Fleet.new(folder / "fleet"), free_port()
        self.links: dict[str, Link] = {}
        self.shares: dict[str, Share] = {}
        self._carriers: dict[str, MqttCarrier] = {}

    @asynccontextmanager
    async def open(self, *devices: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            broker = mosquitto.run_mosquitto(self._folder / "broker", self.port, FLEET, self.fleet.server(), workers=2)
            await stack.enter_async_context(broker)
            await stack.enter_async_context(self.process("cloud"))
            for name in devices:
                transport = MqttTransport("localhost", self.port, FLEET, name, self.fleet.client(name))
                self.links[name] = await stack.enter_async_context(transport.connect())
            yield

    @asynccontextmanager
    async def process(self, name: str) -> AsyncIterator[None]:
        share = self.shares[name] = Share()
        carrier = MqttCarrier("localhost", self.port, FLEET, self.fleet.client(name), name, share.others)
        async with carrier.serve(share):
            self._carriers[name] = carrier
            await self._settled()
            yield
        del self._carriers[name], self.shares[name]
        await self._settled()

    async def _settled(self) -> None:
        """Everybody sees everybody, and the broker has done what they asked for then."""
        for name, share in self.shares.items():
            await share.until(lambda _: share.beside == self.shares.keys() - {name})  # noqa: B023 (waits here)
            if self.links:
                device, link = next(iter(self.links.items()))
                await share.until(lambda seen: seen.online.get(device, False))  # noqa: B023 (waits here)
                assert await self._carriers[name].send(device, ack(1))
                downs = link.receive()
                while wire.decode(Down, await anext(downs)).ack is None:
                    pass

    async def heard(self) -> dict[str, int]:
        """How many devices each process hears when every device says one thing, once."""
        for share in self.shares.values():
            share.messages.clear()
        for name, link in self.links.items():
            await link.send(name.encode())
        await asyncio.gather(*(self._is_heard(name) for name in self.links))
        assert sum(len(share.messages) for share in self.shares.values()) == len(self.links)
        return {name: len(share.messages) for name, share in self.shares.items()}

    async def _is_heard(self, device: str) -> None:
        waits = [
            asyncio.ensure_future(share.until(lambda seen: (device, device.encode()) in seen.messages))
            for share in self.shares.values()
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


@needs_mosquitto
def test_workers_share_devices_fairly_and_take_over_from_one_that_ends(tmp_path: Path) -> None:
    async def run() -> None:
        harbour = Harbour(tmp_path)
        async with harbour.open(*(f"edge-{number}" for number in range(40))):
            assert await harbour.heard() == {"cloud": 40}
            async with harbour.process("cloud.1"):
                assert await harbour.heard() == {"cloud": 0, "cloud.1": 40}
                async with harbour.process("cloud.2"):
                    assert await harbour.heard() == {"cloud": 0, "cloud.1": 21, "cloud.2": 19}
                assert await harbour.heard() == {"cloud": 0, "cloud.1": 40}
            assert await harbour.heard() == {"cloud": 40}

    asyncio.run(asyncio.wait_for(run(), 90))


@needs_mosquitto
def test_who_takes_devices_over_asks_them_for_what_is_in_flight(tmp_path: Path) -> None:
    async def run() -> None:
        harbour = Harbour(tmp_path)
        async with harbour.open("a"), AsyncExitStack() as worker:
            await worker.enter_async_context(harbour.process("cloud.1"))
            await harbour.links["a"].send(b"1")
            await harbour.shares["cloud.1"].until(lambda seen: seen.messages == [("a", b"1")])
            harbour.links, (link,) = {}, harbour.links.values()
            await worker.aclose()
            assert wire.decode(Down, await anext(link.receive())).again

    asyncio.run(asyncio.wait_for(run(), 90))


@needs_mosquitto
def test_the_newest_assignment_of_each_workload_is_retained_for_a_device_that_links_later(tmp_path: Path) -> None:
    async def run() -> None:
        inbox, told = MemoryInbox(), [desired("ear", 1), desired("eye", 2)]
        async with mqtt_pair(tmp_path) as pair, pair.carrier.serve(inbox):
            job = desired("ear", 0, "measure")
            async with pair.dial("a").connect() as link:
                await inbox.until(lambda seen: seen.online == {"a": True})
                assert all([await pair.carrier.send("a", down) for down in (*told, job)])
                downs = link.receive()
                assert [await anext(downs) for _ in range(3)] == [*told, job]
            async with pair.dial("a").connect() as link:
                downs = link.receive()
                assert {await anext(downs), await anext(downs)} == set(told)

    asyncio.run(run())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
