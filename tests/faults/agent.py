"""The device's side of the fault tests, as a process that can be killed: puts numbered batches and sends them.

Arguments: folder, first number, count, gRPC address. Prints a line for each batch that is durable.
"""

import asyncio
import sys
from pathlib import Path

from skerry_edge.adapters.transport_grpc import GrpcTransport
from skerry_edge.observe.arrow import encode
from skerry_edge.observe.outbox import Outbox
from skerry_edge.observe.uplink import Limits, Uplink
from skerry_shared.identity import load_key
from skerry_shared.ports.carrier import TlsFiles
from skerry_shared.sealing import Sealer
from skerry_shared.telemetry import pack

LIMITS = Limits(batches=8, silence=1.0, first_wait=0.05, longest_wait=0.2)


async def main(folder: Path, first: int, count: int, address: str) -> None:
    files = TlsFiles(folder / "authority", folder / "certificate", folder / "key")
    keys = files.certificate.read_bytes(), load_key(files.key.read_bytes()), (folder / "ingest").read_bytes()
    outbox = Outbox(folder / "spool", 64 << 20, lambda: Sealer("north", "a", *keys))
    uplink = asyncio.create_task(Uplink(outbox, [GrpcTransport(address, files)], lambda _: None, LIMITS).run())
    for number in range(first, first + count):
        await asyncio.to_thread(put, outbox, number)
        say(number)
    while outbox.reader().next() is not None:  # noqa: ASYNC110 (nothing says that the spool is empty)
        await asyncio.sleep(0.02)
    uplink.cancel()
    say("empty")


def say(line: object) -> None:
    print(line, flush=True)  # noqa: T201 (the test reads it)


def put(outbox: Outbox, number: int) -> None:
    table = "labels" if number % 3 else "events"
    outbox.put(table, pack(encode(table, labels(number) if number % 3 else events(number))))


def labels(number: int) -> dict[str, list[object]]:
    return {"time": [0.0], "prediction_id": [str(number)], "label": ["x" * 2000]}


def events(number: int) -> dict[str, list[object]]:
    texts: dict[str, list[object]] = {name: ["x"] for name in ("from", "to", "workload")}
    return {"time": [0.0], "subject": ["update"], "reason": [str(number)], **texts, "release": [1], "rollout": [1]}


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
