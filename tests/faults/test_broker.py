"""A broker is not trusted to keep anything: it is killed and started again, and the cloud comes and goes."""

import asyncio
import socket
from collections import Counter
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from skerry_cloud.adapters import mosquitto
from skerry_cloud.adapters.carrier_mqtt import MqttCarrier
from skerry_cloud.ingest.flow import Ingest
from skerry_cloud.ingest.lake import Lake
from skerry_edge.adapters.transport_mqtt import MqttTransport
from skerry_edge.observe.arrow import encode
from skerry_edge.observe.outbox import Outbox
from skerry_edge.observe.uplink import Limits, Uplink
from skerry_shared.identity import Authority, load_key, new_key, private_pem, request
from skerry_shared.ports.carrier import TlsFiles
from skerry_shared.sealing import IngestKey, Sealer
from skerry_shared.telemetry import pack

NOW = datetime.now(timezone.utc)
FLEET = "north"
LIMITS = Limits(batches=8, silence=1.0, first_wait=0.05, longest_wait=0.2)
ROUND = 40  # batches

pytestmark = pytest.mark.skipif(mosquitto.found() is None, reason="mosquitto is not installed")


class Shore:
    """Broker and cloud, each of which can be taken away and brought back."""

    def __init__(self, folder: Path) -> None:
        self.port, self.ingest_key = free_port(), IngestKey.new()
        self._folder, self._authority = folder, Authority.new(FLEET, NOW)
        self._server_key, self._parts = new_key(), dict[str, AsyncExitStack]()

    async def raise_broker(self) -> None:
        certificate = self._authority.issue_server(self._server_key, ("localhost",), NOW, 1)
        identity = self.files("server", certificate, private_pem(self._server_key))
        await self._enter("broker", mosquitto.run_mosquitto(self._folder / "broker", self.port, FLEET, identity))

    async def raise_cloud(self) -> None:
        carrier = MqttCarrier("localhost", self.port, FLEET, self.client("cloud"))
        lake, authority = Lake(self._folder / "lake"), self._authority.certificate
        told: dict[str, Any] = {"channels": ignore, "acknowledge": carrier.send, "committed": ignore}
        ingest = Ingest(lake, self._folder / "sessions", FLEET, authority, self.ingest_key, **told)
        task = asyncio.create_task(ingest.run())
        await self._enter("cloud", carrier.serve(Gate(ingest)))
        self._parts["cloud"].push_async_callback(cancelled, task)

    async def fell(self, part: str) -> None:
        await self._parts.pop(part).aclose()

    def client(self, name: str) -> TlsFiles:
        key = new_key()
        return self.files(name, self._authority.sign_request(request(name, key), name, NOW, 1), private_pem(key))

    def files(self, name: str, certificate: bytes, key: bytes) -> TlsFiles:
        files = TlsFiles(*(self._folder / f"{name}.{kind}" for kind in ("authority", "certificate", "key")))
        trusted = self._authority.certificate.public_bytes(Encoding.PEM)
        for path, content in zip(
            (files.authority, files.certificate, files.key), (trusted, certificate, key), strict=True
        ):
            path.write_bytes(content)
        return files

    async def _enter(self, part: str, context: Any) -> None:
        self._parts[part] = AsyncExitStack()
        await self._parts[part].enter_async_context(context)


class Gate:
    def __init__(self, ingest: Ingest) -> None:
        self.arrived = ingest.arrived

    async def present(self, device: str, online: bool) -> None: ...


async def ignore(*_: Any) -> None: ...


async def cancelled(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def story(folder: Path, fells: tuple[str, ...]) -> None:
    shore = Shore(folder)
    files = shore.client("a")
    pem, key = files.certificate.read_bytes(), load_key(files.key.read_bytes())
    outbox = Outbox(folder / "spool", 64 << 20, lambda: Sealer(FLEET, "a", pem, key, shore.ingest_key.public_bytes()))
    await shore.raise_broker()
    await shore.raise_cloud()
    transport = MqttTransport("localhost", shore.port, FLEET, "a", files)
    uplink = asyncio.create_task(Uplink(outbox, [transport], lambda _: None, LIMITS).run())
    for part in fells:
        putting = asyncio.create_task(asyncio.to_thread(put, outbox, ROUND))
        await shore.fell(part)
        await (shore.raise_broker() if part == "broker" else shore.raise_cloud())
        await putting
    await asyncio.wait_for(emptied(outbox), 60)
    await cancelled(uplink)
    await shore.fell("cloud")
    await shore.fell("broker")


def put(outbox: Outbox, count: int) -> None:
    for _ in range(count):
        number = str(outbox._lanes["labels"].sealer.counter)
        outbox.put("labels", pack(encode("labels", {"time": [0.0], "prediction_id": [number], "label": ["x"]})))


async def emptied(outbox: Outbox) -> None:
    while outbox.reader().next() is not None:  # noqa: ASYNC110 (nothing says that the spool is empty)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("fells", [("cloud", "cloud"), ("broker", "cloud", "broker")])
def test_neither_broker_nor_cloud_is_missed(fells: tuple[str, ...], tmp_path: Path) -> None:
    asyncio.run(story(tmp_path, fells))
    found = Counter(Lake(tmp_path / "lake").scan("labels").column("prediction_id").to_pylist())
    assert found == Counter(str(number) for number in range(ROUND * len(fells)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port
