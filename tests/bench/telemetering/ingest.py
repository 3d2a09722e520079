"""Rows a second from the broker into the lake, beside bare decode and Delta append of the same batches.

A device has sent all to Mosquitto, over TLS, before ingest takes any: what is measured is how fast it leaves the
broker. Here the session is verified, each batch opened, placed by its counter, decoded, checked
and committed with fsync, then acknowledged. The clock runs from the first message to the last acknowledgement.

A batch has as many samples as a recorder sends together, if the model is asked so often that they come in less than a
minute. One that is asked and sampled once a second sends what a minute brings: ``live``. An outage does not change
that, for batches are sealed before they are spooled.
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

from delivering.cloud import Gate, ignore, unknown
from delivering.device import FLEET, NAME, identity
from delivering.program import Program, free_port, running
from delivering.run import BENCH, furnish
from skerry_cloud.adapters import mosquitto
from skerry_cloud.adapters.carrier_mqtt import MqttCarrier
from skerry_cloud.ingest.flow import GROUP, Ingest
from skerry_cloud.ingest.lake import Lake
from skerry_edge.observe.arrow import encode
from skerry_edge.observe.recorder import SAMPLES
from skerry_shared import wire
from skerry_shared.identity import load_key
from skerry_shared.sealing import IngestKey, Sealer
from skerry_shared.telemetry import Down, Up, pack, unpack
from telemetering.publisher import joined

BATCHES, FEATURES = 4000, 20
LIVE = 60  # rows of a batch
ROUNDS = 5


def measure() -> dict[str, float]:
    """The ratio of both rates, each the best of some rounds, for others only slow down; without Mosquitto nothing."""
    if not mosquitto.found():
        print("ingest: skipped, for Mosquitto is not installed")
        return {}
    return _measure(SAMPLES, "") | _measure(LIVE, "live_")


def _measure(rows: int, name: str) -> dict[str, float]:
    batches, rates = _batches(rows), list[tuple[float, float]]()
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="skerry-") as folder:
            bare, ours = _bare(Path(folder), batches), asyncio.run(_through_broker(Path(folder), batches))
            rates.append((bare, ours))
    bare, ours = map(float, rows * np.max(rates, axis=0))
    return {f"{name}ingest_ratio": ours / bare, f"{name}ingest_rows_s": ours, f"{name}bare_rows_s": bare}


def _batches(rows: int) -> list[bytes]:
    """Packed batches of table "samples", of so many rows each."""
    rng = np.random.default_rng(0)
    return [_batch(rng, place, rows) for place in range(BATCHES)]


def _batch(rng: np.random.Generator, place: int, rows: int) -> bytes:
    inputs = (50 + 10 * rng.normal(size=(rows, FEATURES))).astype(np.float32)
    columns: dict[str, list[Any]] = {
        "workload": ["pumps"] * rows, "release": [1] * rows, "time": [1.7e9 + place] * rows,
        "prediction_id": [f"{place * rows + row:024x}" for row in range(rows)],
        "input": [row.tobytes() for row in inputs], "encoding": ["float32"] * rows,
        "scores": [row[:2].tobytes() for row in inputs], "stratum": ["audit"] * rows, "probability": [0.1] * rows,
        "audit": [0.1] * rows,
    }  # fmt: skip
    return pack(encode("samples", columns))


def _bare(folder: Path, batches: list[bytes]) -> float:
    """Batches a second."""
    start = time.perf_counter()
    for first in range(0, len(batches), GROUP):
        rows = [pa.ipc.open_stream(unpack(batch)).read_all() for batch in batches[first : first + GROUP]]
        write_deltalake(folder / "bare", pa.concat_tables(rows), mode="append")
    return BATCHES / (time.perf_counter() - start)


async def _through_broker(folder: Path, batches: list[bytes]) -> float:
    """Batches a second."""
    device, cloud = furnish(folder)
    (file := folder / "messages").write_bytes(joined(_sealed(device, batches)))
    port, started, sent, ended = free_port(), list[float](), asyncio.Event(), asyncio.Event()

    async def acknowledge(_: str, down: bytes) -> bool:
        ack = wire.decode(Down, down).ack
        if ack and ack.counter == BATCHES:
            ended.set()
        return True

    async def arrived(device: str, up: bytes) -> None:
        await sent.wait()  # until then it stays at the broker, but for some hundred
        started.append(time.perf_counter())
        await ingest.arrived(device, up)

    authority = x509.load_pem_x509_certificate((device / "authority").read_bytes())
    ingest = Ingest(
        Lake(folder / "lake"), folder / "sessions", FLEET, authority, IngestKey((cloud / "ingest").read_bytes()),
        channels=unknown, acknowledge=acknowledge, committed=ignore,
    )  # fmt: skip
    async with mosquitto.run_mosquitto(cloud / "broker", port, FLEET, identity(cloud / "server")):
        carrier, gate = MqttCarrier("localhost", port, FLEET, identity(cloud / "client")), Gate(ingest)
        gate.arrived = arrived
        publisher = Program(BENCH, sys.executable, "-m", "telemetering.publisher", device, file, port)
        async with carrier.serve(gate), running(publisher):
            await publisher.until("sent")
            working = asyncio.create_task(ingest.run())
            sent.set()
            await ended.wait()
            seconds = time.perf_counter() - started[0]
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    return BATCHES / seconds


def _sealed(device: Path, batches: list[bytes]) -> list[bytes]:
    files = identity(device)
    key, ingest = load_key(files.key.read_bytes()), (device / "ingest").read_bytes()
    sealer = Sealer(FLEET, NAME, files.certificate.read_bytes(), key, ingest)
    opening = wire.encode(Up(session=sealer.opening))
    return [opening, *(wire.encode(Up(batch=sealer.seal("samples", batch))) for batch in batches)]
