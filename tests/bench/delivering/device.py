"""The device's side, as a process that can be killed: puts numbered batches and sends them.

Arguments: folder, folder of the spool, first number, count, "grpc" or "mqtt", port. Prints the number of each batch
that is durable, "refused" before it if the disk did not take it, and "empty" once the cloud has them all.
"""

import asyncio
import sys
from pathlib import Path

from skerry_edge.adapters.transport_grpc import GrpcTransport
from skerry_edge.adapters.transport_mqtt import MqttTransport
from skerry_edge.observe.arrow import encode
from skerry_edge.observe.outbox import Outbox
from skerry_edge.observe.uplink import Limits, Uplink
from skerry_shared.identity import load_key
from skerry_shared.ports.carrier import TlsFiles, Transport
from skerry_shared.sealing import Sealer
from skerry_shared.telemetry import pack

LIMITS = Limits(batches=50, silence=1.0, first_wait=0.05, longest_wait=0.2)
FLEET, NAME = "north", "a"


async def main(folder: Path, spool: Path, first: int, count: int, carrier: str, port: int) -> None:
    files = identity(folder)
    secret, ingest = load_key(files.key.read_bytes()), (folder / "ingest").read_bytes()
    certificate = files.certificate.read_bytes()
    outbox = Outbox(spool, 16 << 20, lambda: Sealer(FLEET, NAME, certificate, secret, ingest))
    uplink = asyncio.create_task(Uplink(outbox, [transport(carrier, port, files)], lambda _: None, LIMITS).run())
    for number in range(first, first + count):
        durable = await asyncio.to_thread(put, outbox, number)
        say(number if durable else f"refused {number}")
    while outbox.reader().next() is not None:  # noqa: ASYNC110 (nothing says that the spool is empty)
        await asyncio.sleep(0.02)
    uplink.cancel()
    say("empty")


def identity(folder: Path) -> TlsFiles:
    return TlsFiles(folder / "authority", folder / "certificate", folder / "key")


def transport(carrier: str, port: int, files: TlsFiles) -> Transport:
    if carrier == "mqtt":
        return MqttTransport("localhost", port, FLEET, NAME, files)
    return GrpcTransport(f"localhost:{port}", files)


def say(line: object) -> None:
    print(line, flush=True)


def put(outbox: Outbox, number: int) -> bool:
    """Is it durable? The disk may have refused it."""
    table, lost = "labels" if number % 3 else "events", outbox.lost.total()
    outbox.put(table, pack(encode(table, labels(number) if number % 3 else events(number))))
    return outbox.lost.total() == lost


def labels(number: int) -> dict[str, list[object]]:
    return {"time": [0.0], "prediction_id": [str(number)], "label": ["x" * 2000]}


def events(number: int) -> dict[str, list[object]]:
    texts: dict[str, list[object]] = {name: ["x"] for name in ("from", "to", "workload")}
    return {"time": [0.0], "subject": ["update"], "reason": [str(number)], **texts, "release": [1], "rollout": [1]}


if __name__ == "__main__":
    folder, spool, first, count, carrier, port = sys.argv[1:]
    asyncio.run(main(Path(folder), Path(spool), int(first), int(count), carrier, int(port)))
