"""No durable record is lost or counted twice, whoever is killed and wherever the link is cut.

Real processes, killed with SIGKILL at random moments; a proxy between them that cuts, stalls and refuses.
"""

import asyncio
import random
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from skerry_cloud.ingest.lake import QUARANTINE, Lake
from skerry_shared.identity import Authority, new_key, private_pem, request
from skerry_shared.sealing import IngestKey
from skerry_shared.testing.faults import FaultProxy

HERE = Path(__file__).parent
BATCHES = 60  # a life of the agent
LIVES = 3


class Program:
    """A child process that can be killed and started again; every line it prints is kept."""

    def __init__(self, *arguments: object) -> None:
        self.lines: list[str] = []
        self._arguments = [sys.executable, *map(str, arguments)]
        self._changed = asyncio.Event()

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(*self._arguments, stdout=asyncio.subprocess.PIPE)
        self._reader = asyncio.create_task(self._read())

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader

    async def until(self, line: str) -> None:
        """Wait until this run has printed ``line``; fails if it ends before."""
        start = len(self.lines)
        while line not in self.lines[start:]:
            assert not self._reader.done(), f"ended before {line!r}"
            self._changed.clear()
            await asyncio.wait(
                {self._reader, asyncio.ensure_future(self._changed.wait())}, return_when="FIRST_COMPLETED"
            )

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode().strip())
            self._changed.set()


def furnish(folder: Path) -> tuple[Path, Path]:
    """Folders of a device and of a cloud, with keys and certificates."""
    now, ingest = datetime.now(timezone.utc), IngestKey.new()
    authority, device_key, server_key = Authority.new("north", now), new_key(), new_key()
    public = authority.certificate.public_bytes(Encoding.PEM)
    device, cloud = folder / "device", folder / "cloud"
    contents = {
        device: (public, authority.sign_request(request("a", device_key), "a", now, 1), device_key),
        cloud: (public, authority.issue_server(server_key, ("localhost",), now, 1), server_key),
    }
    for place, (trusted, certificate, key) in contents.items():
        place.mkdir()
        (place / "authority").write_bytes(trusted)
        (place / "certificate").write_bytes(certificate)
        (place / "key").write_bytes(private_pem(key))
    (device / "ingest").write_bytes(ingest.public_bytes())
    (cloud / "ingest").write_bytes(ingest.private_bytes())
    return device, cloud


@asynccontextmanager
async def running(program: Program) -> AsyncIterator[Program]:
    await program.start()
    try:
        yield program
    finally:
        await program.kill()


async def story(folder: Path, seed: int) -> Counter[str]:
    """Several lives of an agent under faults, then peace until its spool is empty. What it had made durable."""
    rng, (device, cloud), port = random.Random(seed), furnish(folder), free_port()
    durable: Counter[str] = Counter()
    async with FaultProxy("localhost", port) as network, running(Program(HERE / "cloud.py", cloud, port)) as server:
        trouble = asyncio.create_task(_make_trouble(rng, network, server))
        for life in range(LIVES):
            last = life == LIVES - 1
            agent = Program(HERE / "agent.py", device, life * BATCHES, BATCHES, f"localhost:{network.port}")
            async with running(agent):
                if last:
                    trouble.cancel()
                    await asyncio.gather(trouble, return_exceptions=True)
                    await _make_peace(network, server)
                    await agent.until("empty")
                else:
                    await agent.until(str(life * BATCHES + rng.randrange(BATCHES)))
                    await asyncio.sleep(rng.uniform(0, 0.5))
            durable.update(line for line in agent.lines if line.isdigit())
    return durable


async def _make_trouble(rng: random.Random, network: FaultProxy, server: Program) -> None:
    while True:
        await asyncio.sleep(rng.uniform(0.05, 0.4))
        fault = rng.choice(("cut", "cut later", "stall", "refuse", "kill"))
        if fault == "cut":
            network.cut()
        elif fault == "cut later":
            network.cut_after = rng.randrange(20_000)
        elif fault == "stall":
            network.stall()
        elif fault == "refuse":
            network.refuse = True
        else:
            await server.kill()
            await server.start()
        await asyncio.sleep(rng.uniform(0, 0.3))
        network.resume()
        network.refuse = False


async def _make_peace(network: FaultProxy, server: Program) -> None:
    network.resume()
    network.refuse, network.cut_after = False, None
    await server.kill()
    await server.start()
    await server.until("ready")


def stored(lake: Lake) -> Counter[str]:
    numbers = lake.scan("labels").column("prediction_id").to_pylist() + lake.scan("events").column("reason").to_pylist()
    return Counter(numbers)


def check(folder: Path, seed: int) -> None:
    durable = asyncio.run(asyncio.wait_for(story(folder, seed), 100))
    lake = Lake(folder / "cloud/lake")
    found = stored(lake)
    assert set(durable) <= set(found), f"seed {seed}: lost {sorted(set(durable) - set(found))}"
    assert max(found.values()) == 1, f"seed {seed}: twice {[number for number, times in found.items() if times > 1]}"
    assert lake.scan(QUARANTINE).num_rows == 0
    # a batch may be stored although the agent was killed before it could say that it was durable: one a life
    assert len(found) - len(durable) <= LIVES - 1


@pytest.mark.parametrize("seed", range(3))
def test_every_durable_record_is_in_the_lake_exactly_once(seed: int, tmp_path: Path) -> None:
    check(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_rounds(tmp_path: Path) -> None:
    for _ in range(30):
        seed = random.SystemRandom().randrange(1 << 32)
        folder = tmp_path / str(seed)
        folder.mkdir()
        check(folder, seed)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port
