"""The cloud's side of the fault tests, as a process that can be killed: a gRPC carrier, ingest and lake.

Arguments: folder, port. Prints "ready" once it serves.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from cryptography import x509

from skerry_cloud.adapters.carrier_grpc import GrpcCarrier
from skerry_cloud.ingest.flow import Ingest
from skerry_cloud.ingest.lake import Lake
from skerry_shared.sealing import IngestKey


async def main(folder: Path, port: int) -> None:
    certificate, secret, trusted = ((folder / name).read_bytes() for name in ("certificate", "key", "authority"))
    carrier = GrpcCarrier(f"localhost:{port}", certificate, secret, trusted, permit)
    authority = x509.load_pem_x509_certificate(trusted)
    key = IngestKey((folder / "ingest").read_bytes())
    ingest = Ingest(
        Lake(folder / "lake"), folder / "sessions", "north", authority, key, acknowledge=carrier.send, committed=ignore
    )
    async with carrier.serve(Gate(ingest)):
        print("ready", flush=True)  # noqa: T201 (the test reads it)
        await ingest.run()


class Gate:
    def __init__(self, ingest: Ingest) -> None:
        self.arrived = ingest.arrived

    async def present(self, device: str, online: bool) -> None: ...


async def permit(_: str) -> bool:
    return True


async def ignore(*_: Any) -> None: ...


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
