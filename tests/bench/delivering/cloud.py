"""The cloud's side, as a process that can be killed: a carrier, ingest and lake.

Arguments: folder, "grpc" or "mqtt", port. Prints "ready" once it serves.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any, NoReturn

from cryptography import x509

from delivering.device import FLEET, identity
from skerry_cloud.adapters.carrier_grpc import GrpcCarrier
from skerry_cloud.adapters.carrier_mqtt import MqttCarrier
from skerry_cloud.ingest.flow import Ingest
from skerry_cloud.ingest.lake import Lake
from skerry_shared.errors import NotFoundError
from skerry_shared.ports.carrier import Carrier, TlsFiles
from skerry_shared.sealing import IngestKey


async def main(folder: Path, carrier: str, port: int) -> None:
    files = identity(folder / ("client" if carrier == "mqtt" else "server"))
    link, key = _carrier(carrier, port, files), IngestKey((folder / "ingest").read_bytes())
    authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    lake, sessions = Lake(folder / "lake"), folder / "sessions"
    ingest = Ingest(lake, sessions, FLEET, authority, key, unknown, acknowledge=link.send, committed=ignore)
    async with link.serve(Gate(ingest)):
        print("ready", flush=True)
        await ingest.run()


def _carrier(name: str, port: int, files: TlsFiles) -> Carrier:
    if name == "mqtt":
        return MqttCarrier("localhost", port, FLEET, files)
    certificate, key, authority = (path.read_bytes() for path in (files.certificate, files.key, files.authority))
    return GrpcCarrier(f"localhost:{port}", certificate, key, authority, permit)


class Gate:
    def __init__(self, ingest: Ingest) -> None:
        self.arrived = ingest.arrived

    async def present(self, device: str, online: bool) -> None: ...


async def permit(_: str) -> bool:
    return True


async def unknown(*model: Any) -> NoReturn:
    raise NotFoundError(f"{model}: no windows are sent here")


async def ignore(*_: Any) -> None: ...


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
