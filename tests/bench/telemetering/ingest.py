"""Rows a second from the broker into the lake, beside bare decode and Delta append of the same batches.

Through the broker: Mosquitto over TLS, a device's process that sends as fast as it may; here the session is verified,
each batch opened, placed by its counter, decoded, checked and committed with fsync, then acknowledged. The clock runs
from the first message to the last acknowledgement.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from cryptography import x509
from deltalake import write_deltalake

from delivering.cloud import Gate, ignore
from delivering.device import FLEET, NAME, identity
from delivering.program import Program, free_port, running
from delivering.run import BENCH, furnish
from skerry_cloud.adapters import mosquitto
from skerry_cloud.adapters.carrier_mqtt import MqttCarrier
from skerry_cloud.ingest.flow import GROUP, Ingest
from skerry_cloud.ingest.lake import Lake
from skerry_edge.observe.arrow import encode
from skerry_shared import wire
from skerry_shared.identity import load_key
from skerry_shared.sealing import IngestKey, Sealer
from skerry_shared.telemetry import Down, Up, pack, unpack
from telemetering.publisher import joined

BATCHES, ROWS, FEATURES = 4000, 64, 20
ROUNDS = 3


def measure() -> dict[str, float]:
    """The ratio of both rates, the median of some rounds; without Mosquitto nothing."""
    if not mosquitto.found():
        print("ingest: skipped, for Mosquitto is not installed")
        return {}
    batches, rates = _batches(), list[tuple[float, float]]()
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="skerry-") as folder:
            rates.append((_bare(Path(folder), batches), asyncio.run(_through_broker(Path(folder), batches))))
    bare, ours = np.median(rates, axis=0)
    ratio = float(np.median([ours / bare for bare, ours in rates]))
    return {"ingest_ratio": ratio, "ingest_rows_s": float(ours), "bare_rows_s": float(bare)}


def _batches() -> list[bytes]:
    """Packed batches of table "samples"."""
    rng = np.random.default_rng(0)
    return [_batch(rng, place) for place in range(BATCHES)]


def _batch(rng: np.random.Generator, place: int) -> bytes:
    inputs = (50 + 10 * rng.normal(size=(ROWS, FEATURES))).astype(np.float32)
    columns: dict[str, list[Any]] = {
        "workload": ["pumps"] * ROWS, "release": [1] * ROWS, "time": [1.7e9 + place] * ROWS,
        "prediction_id": [f"{place * ROWS + row:024x}" for row in range(ROWS)],
        "input": [row.tobytes() for row in inputs], "encoding": ["float32"] * ROWS,
        "scores": [row[:2].tobytes() for row in inputs], "stratum": ["audit"] * ROWS, "probability": [0.1] * ROWS,
        "audit": [0.1] * ROWS,
    }  # fmt: skip
    return pack(encode("samples", columns))


def _bare(folder: Path, batches: list[bytes]) -> float:
    start = time.perf_counter()
    for first in range(0, len(batches), GROUP):
        rows = [pa.ipc.open_stream(unpack(batch)).read_all() for batch in batches[first : first + GROUP]]
        write_deltalake(folder / "bare", pa.concat_tables(rows), mode="append")
    return BATCHES * ROWS / (time.perf_counter() - start)


async def _through_broker(folder: Path, batches: list[bytes]) -> float:
    device, cloud = furnish(folder)
    (file := folder / "messages").write_bytes(joined(_sealed(device, batches)))
    port, started, ended = free_port(), list[float](), asyncio.Event()

    async def acknowledge(_: str, down: bytes) -> bool:
        ack = wire.decode(Down, down).ack
        if ack and ack.counter == BATCHES:
            ended.set()
        return True

    async def arrived(device: str, up: bytes) -> None:
        started.append(time.perf_counter())
        await ingest.arrived(device, up)

    authority = x509.load_pem_x509_certificate((device / "authority").read_bytes())
    ingest = Ingest(
        Lake(folder / "lake"), folder / "sessions", FLEET, authority, IngestKey((cloud / "ingest").read_bytes()),
        acknowledge=acknowledge, committed=ignore,
    )  # fmt: skip
    async with mosquitto.run_mosquitto(cloud / "broker", port, FLEET, identity(cloud / "server")):
        carrier = MqttCarrier("localhost", port, FLEET, identity(cloud / "client"))
        gate = Gate(ingest)
        gate.arrived = arrived
        async with carrier.serve(gate):
            working = asyncio.create_task(ingest.run())
            async with running(Program(BENCH, sys.executable, "-m", "telemetering.publisher", device, file, port)):
                await ended.wait()
                seconds = time.perf_counter() - started[0]
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    return BATCHES * ROWS / seconds


def _sealed(device: Path, batches: list[bytes]) -> list[bytes]:
    files = identity(device)
    key, ingest = load_key(files.key.read_bytes()), (device / "ingest").read_bytes()
    sealer = Sealer(FLEET, NAME, files.certificate.read_bytes(), key, ingest)
    opening = wire.encode(Up(session=sealer.opening))
    return [opening, *(wire.encode(Up(batch=sealer.seal("samples", batch))) for batch in batches)]
