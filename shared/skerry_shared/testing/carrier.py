"""A carrier in memory, for tests of what uses one, and what every carrier must do, as checks for authors of carriers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from skerry_shared import wire
from skerry_shared.errors import LinkError
from skerry_shared.ports.carrier import Link
from skerry_shared.telemetry import Down

PATIENCE = 20.0  # seconds until a check gives up: far above what a loaded machine needs


class MemoryInbox:
    """Remembers what arrived and who is present, and lets a test wait for it."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.online: dict[str, bool] = {}
        self.room = asyncio.Event()  # cleared: ingest is full
        self.room.set()
        self._changed = asyncio.Event()

    async def arrived(self, device: str, up: bytes) -> None:
        """See ``Inbox``."""
        await self.room.wait()
        self.messages.append((device, up))
        self._change()

    async def present(self, device: str, online: bool) -> None:
        """See ``Inbox``."""
        self.online[device] = online
        self._change()

    async def until(self, holds: Callable[["MemoryInbox"], bool]) -> None:
        """Wait until ``holds``; fails after ``PATIENCE``."""
        await asyncio.wait_for(self._until(holds), PATIENCE)

    async def _until(self, holds: Callable[["MemoryInbox"], bool]) -> None:
        while not holds(self):
            await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class MemoryLink:
    """Both ends of a link: a test plays the cloud with ``sent`` and ``deliver``."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bytes] = asyncio.Queue()
        self._downs: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._lost = False

    async def send(self, up: bytes) -> None:
        """See ``Link``."""
        if self._lost:
            raise LinkError("memory: lost")
        self.sent.put_nowait(up)

    async def receive(self) -> AsyncIterator[bytes]:
        """See ``Link``."""
        while (down := await self._downs.get()) is not None:
            yield down
        raise LinkError("memory: lost")

    def deliver(self, down: Down) -> None:
        """A message from the cloud."""
        self._downs.put_nowait(wire.encode(down))

    def lose(self) -> None:
        """Cut the link."""
        self._lost = True
        self._downs.put_nowait(None)


class MemoryTransport:
    """Opens ``MemoryLink``s, which a test takes from ``links``; while ``refuses`` nobody can be reached."""

    def __init__(self, name: str = "memory", refuses: bool = False) -> None:
        self.name, self.refuses = name, refuses
        self.links: asyncio.Queue[MemoryLink] = asyncio.Queue()
        self.dialled = 0

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        """See ``Transport``."""
        self.dialled += 1
        if self.refuses:
            raise LinkError("memory: nobody there")
        link = MemoryLink()
        self.links.put_nowait(link)
        yield link
