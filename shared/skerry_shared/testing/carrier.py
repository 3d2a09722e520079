"""A carrier in memory, for tests of what uses one, and ``CHECKS`` of what every carrier must do, for their authors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from skerry_shared import wire
from skerry_shared.errors import LinkError
from skerry_shared.ports.carrier import MAX_MESSAGE, Carrier, Link, Transport
from skerry_shared.release import Assignment, Signed, Target
from skerry_shared.telemetry import Ack, Down, Sealed, Up
from skerry_shared.testing.faults import FaultProxy

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


@dataclass(frozen=True)
class Pair:
    """A carrier and its transport under test, in a fleet that has the devices "a" and "b".

    ``dial(device)`` is the device's transport; ``dial(device, claimed)`` shows the device's certificate but claims
    another name wherever the transport says a name; ``dial_stranger(device)`` shows a certificate of that name from
    another authority. The link passes through ``network``.
    """

    carrier: Carrier
    dial: Callable[..., Transport]
    dial_stranger: Callable[[str], Transport]
    network: FaultProxy


def up(payload: bytes) -> bytes:
    """A serialised Up that carries ``payload``."""
    return wire.encode(Up(batch=Sealed(b"", payload)))


def desired(workload: str, release: int, mode: str = "serve") -> bytes:
    """A serialised Down with an assignment, which nobody signed."""
    target = Target("", "", "", "")
    assignment = Assignment("north", "a", release, 0, 0, 1, workload, release, "", "", 0, target, mode)
    return wire.encode(Down(desired=wire.encode(Signed(wire.encode(assignment), b""))))


def ack(counter: int) -> bytes:
    """A serialised Down that acknowledges ``counter``."""
    return wire.encode(Down(ack=Ack(b"s", counter)))


async def check_presence(pair: Pair) -> None:
    """A link is announced when it opens and when it closes."""
    inbox = MemoryInbox()
    async with pair.carrier.serve(inbox):
        async with pair.dial("a").connect():
            await inbox.until(lambda seen: seen.online == {"a": True})
        await inbox.until(lambda seen: seen.online == {"a": False})


async def check_both_directions(pair: Pair) -> None:
    """What is sent arrives in order and once, under the sender's name; the device gets what is meant for it."""
    inbox = MemoryInbox()
    async with pair.carrier.serve(inbox), pair.dial("a").connect() as a, pair.dial("b").connect() as b:
        ups = [up(b"%d" % number) for number in range(100)]
        for message in ups:
            await a.send(message)
        await b.send(up(b"b"))
        await inbox.until(lambda seen: len(seen.messages) == 101)
        assert [message for device, message in inbox.messages if device == "a"] == ups
        assert [message for device, message in inbox.messages if device == "b"] == [up(b"b")]

        await inbox.until(lambda seen: seen.online == {"a": True, "b": True})
        assert all([await pair.carrier.send("a", ack(number)) for number in range(100)])
        assert await pair.carrier.send("b", desired("ear", 1))
        assert await _receive(a, 100) == [ack(number) for number in range(100)]
        assert await _receive(b, 1) == [desired("ear", 1)]


async def check_assignments_of_several_workloads(pair: Pair) -> None:
    """Assignments of several workloads reach a device all, and none that was replaced does when it comes back."""
    inbox, told = MemoryInbox(), [desired("ear", 1), desired("eye", 2), desired("ear", 3)]
    async with pair.carrier.serve(inbox):
        async with pair.dial("a").connect() as link:
            await inbox.until(lambda seen: seen.online == {"a": True})
            assert all([await pair.carrier.send("a", down) for down in told])
            assert await _receive(link, 3) == told
        await inbox.until(lambda seen: seen.online == {"a": False})
        async with pair.dial("a").connect() as link:
            await inbox.until(lambda seen: seen.online == {"a": True})
            assert await pair.carrier.send("a", ack(1))
            again = await _receive_until(link, ack(1))
        assert told[0] not in again, "an assignment that was replaced came again"


async def check_nobody_is_there(pair: Pair) -> None:
    """A message for a device without a link is not passed on, and the carrier says so."""
    async with pair.carrier.serve(MemoryInbox()):
        assert not await pair.carrier.send("a", ack(1))


async def check_large_messages(pair: Pair) -> None:
    """A batch of the greatest size passes."""
    inbox, message = MemoryInbox(), up(bytes(MAX_MESSAGE - 1024))
    async with pair.carrier.serve(inbox), pair.dial("a").connect() as link:
        await link.send(message)
        await inbox.until(lambda seen: bool(seen.messages))
    assert inbox.messages == [("a", message)]


async def check_waiting_for_room(pair: Pair) -> None:
    """While ingest has no room nothing is lost."""
    inbox, ups = MemoryInbox(), [up(b"%d" % number * 1000) for number in range(500)]
    inbox.room.clear()
    async with pair.carrier.serve(inbox), pair.dial("a").connect() as link:
        sending = asyncio.ensure_future(_send(link, ups))
        await inbox.until(lambda seen: seen.online.get("a", False))
        assert inbox.messages == []
        inbox.room.set()
        await asyncio.wait_for(sending, PATIENCE)
        await inbox.until(lambda seen: len(seen.messages) == len(ups))
    assert [message for _, message in inbox.messages] == ups


async def check_lost_link(pair: Pair) -> None:
    """A link that breaks raises LinkError wherever it is used; the device can come back."""
    inbox = MemoryInbox()
    async with pair.carrier.serve(inbox):
        with _raises(LinkError):
            async with pair.dial("a").connect() as link:
                await link.send(up(b"1"))
                await inbox.until(lambda seen: bool(seen.messages))
                pair.network.cut()
                with _raises(LinkError):
                    await _receive(link, 1)
                while True:
                    await asyncio.wait_for(link.send(up(b"2")), PATIENCE)
        await inbox.until(lambda seen: seen.online == {"a": False})
        async with pair.dial("a").connect() as link:
            await link.send(up(b"3"))
            await inbox.until(lambda seen: ("a", up(b"3")) in seen.messages)


async def check_unreachable(pair: Pair) -> None:
    """A cloud that cannot be reached raises LinkError."""
    pair.network.refuse = True
    with _raises(LinkError):
        async with pair.dial("a").connect():
            pass


async def check_newest_link_wins(pair: Pair) -> None:
    """A device that links again, its old link not yet known to be dead, is served over the new one."""
    inbox = MemoryInbox()
    async with pair.carrier.serve(inbox):
        with _raises(LinkError):
            async with pair.dial("a").connect() as old:
                async with pair.dial("a").connect() as new:
                    with _raises(LinkError):
                        await _receive(old, 1)
                    await new.send(up(b"new"))
                    await inbox.until(lambda seen: ("a", up(b"new")) in seen.messages)
                    assert inbox.online == {"a": True}
                    assert await pair.carrier.send("a", ack(1))
                    assert await _receive(new, 1) == [ack(1)]
                await old.send(up(b"old"))


async def check_strangers_are_refused(pair: Pair) -> None:
    """A certificate of another authority opens no link, whatever name it says."""
    inbox = MemoryInbox()
    async with pair.carrier.serve(inbox):
        with _raises(LinkError):
            async with pair.dial_stranger("a").connect() as link:
                await link.send(up(b"forged"))
    assert inbox.messages == []


async def check_nobody_speaks_for_another(pair: Pair) -> None:
    """Nothing that device "b" sends is taken for a message of "a", and nothing for "a" reaches "b"."""
    inbox = MemoryInbox()
    async with pair.carrier.serve(inbox), pair.dial("a").connect() as a:
        await inbox.until(lambda seen: seen.online.get("a", False))
        with suppress(LinkError):  # refused, or taken for what it is
            async with pair.dial("b", "a").connect() as forger:
                while ("b", up(b"forged")) not in inbox.messages:
                    await asyncio.wait_for(forger.send(up(b"forged")), PATIENCE)
        await a.send(up(b"genuine"))
        await inbox.until(lambda seen: ("a", up(b"genuine")) in seen.messages)
        assert ("a", up(b"forged")) not in inbox.messages
        assert inbox.online["a"]


CHECKS: tuple[Callable[[Pair], Awaitable[None]], ...] = (
    check_presence,
    check_both_directions,
    check_assignments_of_several_workloads,
    check_nobody_is_there,
    check_large_messages,
    check_waiting_for_room,
    check_lost_link,
    check_unreachable,
    check_newest_link_wins,
    check_strangers_are_refused,
    check_nobody_speaks_for_another,
)


async def _send(link: Link, ups: list[bytes]) -> None:
    for message in ups:
        await link.send(message)


async def _receive(link: Link, count: int) -> list[bytes]:
    async def collect() -> list[bytes]:
        received: list[bytes] = []
        async for message in link.receive():
            received.append(message)
            if len(received) == count:
                break
        return received

    return await asyncio.wait_for(collect(), PATIENCE)


async def _receive_until(link: Link, last: bytes) -> list[bytes]:
    async def collect() -> list[bytes]:
        received: list[bytes] = []
        async for message in link.receive():
            if message == last:
                break
            received.append(message)
        return received

    return await asyncio.wait_for(collect(), PATIENCE)


@contextmanager
def _raises(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")
