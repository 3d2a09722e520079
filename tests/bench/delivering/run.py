"""One run: a device's lives under faults of all kinds, then peace until its spool is empty; what became of its batches.

Real processes: device, cloud and, for MQTT, a broker, killed with SIGKILL at random moments; a proxy before the device
that cuts, stalls, slows and refuses; a disk that is full or loses power, where there may be one (see ``disk``).
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from delivering.device import FLEET, NAME, identity
from delivering.disk import Disk
from delivering.program import Program, free_port, running
from skerry_cloud.adapters import mosquitto
from skerry_cloud.ingest.lake import QUARANTINE, Lake
from skerry_shared.identity import Authority, new_key, private_pem, request
from skerry_shared.mqtt import CLOUD
from skerry_shared.sealing import IngestKey
from skerry_shared.testing.faults import FaultProxy

BENCH = Path(__file__).parent.parent
BATCHES = 200  # that each life puts
LIVES = 3
SLOW = 20_000  # bytes a second


@dataclass(frozen=True)
class Tally:
    """What became of what was durable, and which faults there were."""

    durable: int
    stored: int  # also some that were stored before the device could say that they are durable
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    quarantined: int
    faults: Counter[str]


async def run(folder: Path, seed: int) -> Tally:
    """In an empty folder. The same seed gives the same faults, but moments differ."""
    rng = random.Random(seed)
    carrier = rng.choice(("grpc", "mqtt") if mosquitto.found() else ("grpc",))
    device, cloud = furnish(folder)
    with Disk(folder / "disk") as disk:
        async with _shore(cloud, carrier) as (server, broker, port), FaultProxy("localhost", port) as network:
            trouble = _Trouble(rng, network, server, broker, disk)
            (spool := disk.folder / "spool").mkdir()
            durable = await _lives(rng, trouble, [device, spool], [carrier, network.port])
    lake = Lake(cloud / "lake")
    stored = _stored(lake)
    lost, twice = durable - set(stored), {number for number, times in stored.items() if times > 1}
    quarantined = lake.scan(QUARANTINE).num_rows
    return Tally(len(durable), len(stored), (*sorted(lost),), (*sorted(twice),), quarantined, trouble.made)


async def _lives(rng: random.Random, trouble: "_Trouble", folders: list[Path], link: list[object]) -> set[str]:
    """Numbers of the batches that the device called durable."""
    durable, making = set[str](), asyncio.create_task(trouble.make())
    for life in range(LIVES):
        device = _python("delivering.device", *folders, life * BATCHES, BATCHES, *link)
        async with running(device):
            if life == LIVES - 1:
                trouble.over = True
                await making
                await trouble.make_peace()
                await device.until("empty")
            else:
                await device.until(str(life * BATCHES + rng.randrange(BATCHES)))
                await asyncio.sleep(rng.uniform(0, 0.5))
                await trouble.end_life(device)
        durable.update(line for line in device.lines if line.isdigit())
    return durable


class _Trouble:
    """Makes one fault after the other until it is ``over``, and counts them."""

    def __init__(
        self, rng: random.Random, network: FaultProxy, server: Program, broker: Program | None, disk: Disk
    ) -> None:
        self.made, self.over = Counter[str](), False
        self._rng, self._network, self._server, self._broker, self._disk = rng, network, server, broker, disk
        self._disk_in_use = asyncio.Lock()
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "cut": self._cut, "cut later": self._cut_later, "stall": self._stall, "refuse": self._refuse,
            "slow": self._slow, "flap": self._flap, "kill ingest": self._kill_ingest,
        }  # fmt: skip
        if broker:
            self._kinds["kill broker"] = self._kill_broker
        if disk.is_own:
            self._kinds["full disk"] = self._full_disk

    async def make(self) -> None:
        while not self.over:
            await asyncio.sleep(self._rng.uniform(0.05, 0.4))
            kind = self._rng.choice(list(self._kinds))
            self.made[kind] += 1
            await self._kinds[kind]()
            self._mend()

    async def end_life(self, device: Program) -> None:
        """Of the device: its program is killed, or all of it loses power."""
        async with self._disk_in_use:
            power = self._disk.is_own and self._rng.random() < 0.5
            self.made["power cut" if power else "kill agent"] += 1
            if power:  # nobody hears of what was under way: fdatasync may say yes to what such a cut takes
                device.freeze()
                self._disk.cut_power()
            await device.kill()
            if power:
                await asyncio.to_thread(self._disk.come_back)

    async def make_peace(self) -> None:
        """All is as it should be, with programs that started afresh."""
        self._mend()
        if self._broker:
            await _again(self._broker, "running")
        await _again(self._server, "ready")

    def _mend(self) -> None:
        self._network.resume()
        self._network.refuse, self._network.cut_after, self._network.rate = False, None, None

    async def _last(self) -> None:
        await asyncio.sleep(self._rng.uniform(0, 0.3))

    async def _cut(self) -> None:
        self._network.cut()

    async def _cut_later(self) -> None:
        self._network.cut_after = self._rng.randrange(20_000)
        await self._last()

    async def _stall(self) -> None:
        self._network.stall()
        await self._last()

    async def _refuse(self) -> None:
        self._network.refuse = True
        await self._last()

    async def _slow(self) -> None:
        self._network.rate = SLOW
        await self._last()

    async def _flap(self) -> None:
        for _ in range(self._rng.randrange(2, 6)):
            self._network.cut()
            await asyncio.sleep(self._rng.uniform(0, 0.1))

    async def _kill_ingest(self) -> None:
        await self._server.kill()
        await self._last()
        await self._server.start()

    async def _kill_broker(self) -> None:
        assert self._broker
        await self._broker.kill()
        await self._last()
        await _again(self._broker, "running")

    async def _full_disk(self) -> None:
        async with self._disk_in_use:
            await asyncio.to_thread(self._disk.fill)
            await self._last()
            self._disk.free()


def _python(module: str, *arguments: object) -> Program:
    return Program(BENCH, sys.executable, "-m", module, *arguments)


async def _again(program: Program, sign: str) -> None:
    await program.kill()
    await program.start()
    await program.until(sign)


@asynccontextmanager
async def _shore(cloud: Path, carrier: str) -> AsyncIterator[tuple[Program, Program | None, int]]:
    """The cloud's process, the broker's if there is one, and the port that devices dial."""
    port, broker = free_port(), None
    async with AsyncExitStack() as stack:
        if carrier == "mqtt":
            async with mosquitto.run_mosquitto(cloud / "broker", port, FLEET, identity(cloud / "server")):
                pass  # it was configured, and works
            broker = Program(cloud, mosquitto.found(), "-c", cloud / "broker" / "mosquitto.conf")
            await stack.enter_async_context(running(broker))
            await broker.until("running")
        server = _python("delivering.cloud", cloud, carrier, port)
        await stack.enter_async_context(running(server))
        await server.until("ready")
        yield server, broker, port


def furnish(folder: Path) -> tuple[Path, Path]:
    """Folders of a device and of a cloud, with keys and certificates."""
    now, ingest = datetime.now(timezone.utc), IngestKey.new()
    authority = Authority.new(FLEET, now)
    device, cloud, key = folder / "device", folder / "cloud", new_key()
    for place, name in ((device, NAME), (cloud / "client", CLOUD)):
        own = new_key()
        _write(place, authority, authority.sign_request(request(name, own), name, now, 1), private_pem(own))
    _write(cloud / "server", authority, authority.issue_server(key, ("localhost",), now, 1), private_pem(key))
    (device / "ingest").write_bytes(ingest.public_bytes())
    (cloud / "ingest").write_bytes(ingest.private_bytes())
    return device, cloud


def _write(folder: Path, authority: Authority, certificate: bytes, key: bytes) -> None:
    folder.mkdir(parents=True)
    contents = {"authority": authority.certificate.public_bytes(Encoding.PEM), "certificate": certificate, "key": key}
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def _stored(lake: Lake) -> Counter[str]:
    numbers = lake.scan("labels").column("prediction_id").to_pylist() + lake.scan("events").column("reason").to_pylist()
    return Counter(numbers)
