"""A process that only ingests: it shares what comes over MQTT with others like it (docs/decisions/0011).

It writes to the lake and reads who is enrolled; what follows from the rows, the server does when it sees them there.
"""

import asyncio
import contextlib
import logging
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
from cryptography import x509

from skerry_cloud import config, setup
from skerry_cloud.adapters.carrier_mqtt import MqttCarrier
from skerry_cloud.config import CloudConfig
from skerry_cloud.fleet.director import channels
from skerry_cloud.fleet.enrolment import permitted
from skerry_cloud.ingest.flow import Ingest
from skerry_cloud.ingest.lake import Lake
from skerry_cloud.keys import Keys
from skerry_cloud.store import Store
from skerry_shared import mqtt
from skerry_shared.errors import ConfigError, StateError
from skerry_shared.locking import locked

log = logging.getLogger(__name__)

PROGRESS = 60.0  # seconds between two lines that say how much came


def ingest(folder: Path, say: Callable[[str], None]) -> None:
    """Ingest for the cloud in ``folder`` until SIGINT or SIGTERM; ``say`` gets a line once it does.

    Raises StateError if as many do already as the configuration allows, LinkError if the broker cannot be reached.
    """
    found = config.load(folder)
    with _place(folder.resolve(), found.ingest.workers) as number:
        asyncio.run(_ingest(folder.resolve(), found, number, say))


@contextlib.contextmanager
def _place(folder: Path, workers: int) -> Iterator[int]:
    """The first number that no other process has."""
    with contextlib.ExitStack() as stack:
        free = (number for number in range(1, workers + 1) if _is_ours(stack, folder, number))
        if not (number := next(free, 0)):
            raise StateError(f"ingest.workers: {workers} run on {folder} already; allow more and restart the server")
        yield number


def _is_ours(stack: contextlib.ExitStack, folder: Path, number: int) -> bool:
    with contextlib.suppress(StateError):
        stack.enter_context(locked(folder / f".ingest-{number}.lock", mqtt.worker(number)))
        return True
    return False


async def _ingest(folder: Path, found: CloudConfig, number: int, say: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    worker = Worker(folder, found, number)
    async with worker.running() as parts:
        say(f"skerry-cloud: {mqtt.worker(number)} ingests for fleet {found.fleet}")
        done, _ = await asyncio.wait({asyncio.ensure_future(stop.wait()), *parts}, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()


class Worker:
    """Carrier, ingest and lake of one process; itself the ``Inbox`` of its carrier."""

    def __init__(self, folder: Path, found: CloudConfig, number: int) -> None:
        """``number``: from 1 to ``ingest.workers``, of no other. Raises ConfigError if it has no certificate."""
        keys, name = Keys(folder / setup.KEYS), mqtt.worker(number)
        identity, listen = keys.worker(number), found.listen
        if not identity.certificate.exists():
            raise ConfigError(f"keys: no {identity.certificate}; `skerry-cloud serve` issues it when it starts")
        self._store = Store(found.database_url(folder))
        self._carrier = MqttCarrier(listen.hosts[0], listen.mqtt_port, found.fleet, identity, name)
        authority = x509.load_pem_x509_certificate(identity.authority.read_bytes())
        self._ingest = Ingest(
            Lake(folder / "lake", found.lake.cold_url(folder)), folder / "sessions", found.fleet, authority,
            keys.ingest, partial(channels, self._store), self._carrier.send, self._count,
        )  # fmt: skip
        self._rows = Counter[str]()  # by table, since they were last told

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Sequence["asyncio.Task[NoReturn]"]]:
        """Yields the parts, none of which ends by itself. At the end the others take over at once."""
        parts = [asyncio.create_task(part) for part in (self._ingest.run(), self._tell())]
        try:
            async with self._carrier.serve(self):
                yield parts
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await self._store.close()

    async def arrived(self, device: str, up: bytes) -> None:
        """See ``Inbox``. A device that was revoked may still be known to the broker."""
        if await permitted(self._store, device):
            await self._ingest.arrived(device, up)
        else:
            log.warning("%s is not a device of this fleet (any more): its message is dropped", device)

    async def present(self, device: str, online: bool) -> None:
        """See ``Inbox``. The server notes it."""

    async def _count(self, table: str, rows: pa.Table) -> None:
        self._rows[table] += rows.num_rows

    async def _tell(self) -> NoReturn:
        while True:
            await asyncio.sleep(PROGRESS)
            if self._rows:
                told = ", ".join(f"{table} {count}" for table, count in self._rows.most_common())
                log.info("rows in the last %g s: %s", PROGRESS, told)
            self._rows.clear()
