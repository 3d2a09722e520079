import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from skerry_edge.observe.outbox import Loss, Outbox
from skerry_edge.observe.uplink import Limits, Uplink, ceiling
from skerry_shared import wire
from skerry_shared.identity import Authority, new_key, request
from skerry_shared.sealing import IngestKey, Opener, Sealer
from skerry_shared.telemetry import Ack, Down, Up
from skerry_shared.testing.carrier import MemoryLink, MemoryTransport

QUICK = Limits(first_wait=0.01, longest_wait=0.01)
NOW = datetime.now(timezone.utc)
AUTHORITY = Authority.new("fleet", NOW)
INGEST = IngestKey.new()
KEY = new_key()
CERTIFICATE = AUTHORITY.sign_request(request("device", KEY), "device", NOW, 1)


def boot(folder: Path, max_bytes: int = 1 << 20) -> Outbox:
    """An outbox as after a start of the agent: a new session over the same folder."""
    return Outbox(folder, max_bytes, lambda: Sealer("fleet", "device", CERTIFICATE, KEY, INGEST.public_bytes()))


@dataclass
class Cloud:
    """The other end of a link: reads what was sent and remembers the session of the last opening."""

    link: MemoryLink
    opener: Opener | None = None
    session: bytes = b""

    async def next(self) -> str:
        """ "open", or the payload of the next batch."""
        up = wire.decode(Up, await asyncio.wait_for(self.link.sent.get(), 10))
        if up.session is not None:
            self.opener = Opener(up.session, "fleet", AUTHORITY.certificate, INGEST)
            self.session = self.opener.session
            return "open"
        assert self.opener is not None and up.batch is not None
        return self.opener.open(up.batch)[1].decode()

    async def take(self, count: int) -> list[str]:
        return [await self.next() for _ in range(count)]

    def acknowledge(self, counter: int, refused: str = "") -> None:
        self.link.deliver(Down(ack=Ack(self.session, counter, refused)))

    @property
    def idle(self) -> bool:
        return self.link.sent.empty()


@asynccontextmanager
async def running(uplink: Uplink) -> AsyncIterator[None]:
    task = asyncio.create_task(uplink.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not holds():  # noqa: ASYNC110 (a look at what threads and files did)
            await asyncio.sleep(0)

    await asyncio.wait_for(poll(), 10)


async def cloud_of(transport: MemoryTransport) -> Cloud:
    return Cloud(await asyncio.wait_for(transport.links.get(), 10))


def story(run: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await asyncio.wait_for(run(), 60)

    asyncio.run(whole())


def ignore(_: bytes) -> None: ...


def test_a_session_is_opened_then_batches_follow_and_acknowledged_ones_are_deleted(tmp_path: Path) -> None:
    async def run() -> None:
        outbox, transport = boot(tmp_path), MemoryTransport()
        outbox.put("labels", b"1")
        uplink = Uplink(outbox, [transport], ignore, QUICK)
        async with running(uplink):
            cloud = await cloud_of(transport)
            assert await cloud.take(2) == ["open", "1"]
            assert uplink.online == "memory"
            await asyncio.to_thread(outbox.put, "labels", b"2")
            assert await cloud.next() == "2"
            cloud.acknowledge(2)
            await until(lambda: outbox.reader().next() is None)
        assert uplink.online is None

    story(run)


def test_a_new_link_and_a_new_boot_send_what_was_not_acknowledged(tmp_path: Path) -> None:
    async def run() -> None:
        before = boot(tmp_path)
        for payload in (b"1", b"2", b"3"):
            before.put("labels", payload)
        outbox, transport = boot(tmp_path), MemoryTransport()
        outbox.put("labels", b"4")
        async with running(Uplink(outbox, [transport], ignore, QUICK)):
            first = await cloud_of(transport)
            assert await first.take(2) == ["open", "1"]
            first.acknowledge(1)
            first.link.lose()
            second = await cloud_of(transport)
            sent = await second.take(5)
        # an acknowledgement that was on its way when the link broke may count or not
        assert sent in (["open", "2", "3", "open", "4"], ["open", "1", "2", "3", "open"])

    story(run)


def test_the_window_bounds_what_is_in_flight(tmp_path: Path) -> None:
    async def run(limits: Limits) -> None:
        outbox, transport = boot(tmp_path / str(limits.batches)), MemoryTransport()
        for number in range(5):
            outbox.put("labels", b"%d" % number * 1000)
        async with running(Uplink(outbox, [transport], ignore, limits)):
            cloud = await cloud_of(transport)
            await cloud.take(3)
            for _ in range(20):
                await asyncio.sleep(0)
            assert cloud.idle
            cloud.acknowledge(1)
            await cloud.take(1)
            for _ in range(20):
                await asyncio.sleep(0)
            assert cloud.idle

    story(lambda: run(replace(QUICK, batches=2)))
    story(lambda: run(replace(QUICK, batches=99, size=2500)))


def test_after_a_gap_the_session_is_opened_again_but_only_when_all_before_is_acknowledged(tmp_path: Path) -> None:
    async def run() -> None:
        outbox, transport = boot(tmp_path, max_bytes=50_000), MemoryTransport()
        outbox.put("labels", b"1")
        async with running(Uplink(outbox, [transport], ignore, QUICK)):
            cloud = await cloud_of(transport)
            assert await cloud.take(2) == ["open", "1"]
            await asyncio.to_thread(outbox.put, "labels", bytes(60_000))  # cannot be stored: counter 2 is never sent
            assert outbox.lost == {Loss("labels", "bound"): 1}
            await asyncio.to_thread(outbox.put, "labels", b"3")
            for _ in range(20):
                await asyncio.sleep(0)
            assert cloud.idle
            cloud.acknowledge(1)
            assert await cloud.take(2) == ["open", "3"]

    story(run)


def test_the_next_transport_serves_while_the_first_does_not(tmp_path: Path) -> None:
    async def run() -> None:
        outbox, first, second = boot(tmp_path), MemoryTransport("first", refuses=True), MemoryTransport("second")
        outbox.put("labels", b"1")
        uplink = Uplink(outbox, [first, second], ignore, QUICK)
        async with running(uplink):
            cloud = await cloud_of(second)
            assert uplink.online == "second"
            await cloud.take(2)
            cloud.acknowledge(1)
            first.refuses = False
            cloud.link.lose()
            await cloud_of(first)
            assert uplink.online == "first"

    story(run)


def test_a_silent_link_is_dropped_and_the_batches_go_over_the_next(tmp_path: Path) -> None:
    async def run() -> None:
        outbox, first, second = boot(tmp_path), MemoryTransport("first"), MemoryTransport("second")
        outbox.put("labels", b"1")
        async with running(Uplink(outbox, [first, second], ignore, replace(QUICK, silence=0.05))):
            assert await (await cloud_of(first)).take(2) == ["open", "1"]
            assert await (await cloud_of(second)).take(2) == ["open", "1"]

    story(run)


def test_refusals_are_counted_and_desired_is_passed_on(tmp_path: Path) -> None:
    async def run() -> None:
        outbox, transport, desired = boot(tmp_path), MemoryTransport(), asyncio.Queue[bytes]()
        outbox.put("labels", b"1")
        uplink = Uplink(outbox, [transport], desired.put_nowait, QUICK)
        async with running(uplink):
            cloud = await cloud_of(transport)
            await cloud.take(2)
            cloud.link.deliver(Down(desired=b"assignment"))
            assert await asyncio.wait_for(desired.get(), 10) == b"assignment"
            cloud.acknowledge(1, refused="no such table")
            await until(lambda: uplink.refused == 1)
            await until(lambda: outbox.reader().next() is None)

    story(run)


def test_a_session_that_the_cloud_cannot_open_is_kept_but_does_not_block_the_others(tmp_path: Path) -> None:
    async def run() -> None:
        boot(tmp_path).put("labels", b"old")
        outbox, transport = boot(tmp_path), MemoryTransport()
        outbox.put("labels", b"new")
        async with running(Uplink(outbox, [transport], ignore, replace(QUICK, batches=1))):
            cloud = await cloud_of(transport)
            assert await cloud.take(2) == ["open", "old"]
            cloud.acknowledge(0, refused="sealed to another ingest key")
            assert await cloud.take(2) == ["open", "new"]
            waiting = outbox.reader().next()
            assert waiting is not None and waiting.session != cloud.session

    story(run)


def test_garbage_from_the_cloud_drops_the_link(tmp_path: Path) -> None:
    async def run() -> None:
        transport = MemoryTransport()
        async with running(Uplink(boot(tmp_path), [transport], ignore, QUICK)):
            first = await cloud_of(transport)
            first.link._downs.put_nowait(b"\xff")
            await cloud_of(transport)

    story(run)


def test_waiting_doubles_up_to_its_limit() -> None:
    limits = Limits(first_wait=0.5, longest_wait=60)
    assert [ceiling(limits, failures) for failures in (0, 1, 2, 7, 1000)] == [0.5, 1, 2, 60, 60]


def test_an_opening_says_which_batch_comes_next_and_a_cloud_that_asks_again_gets_all_in_flight(tmp_path: Path) -> None:
    async def run() -> None:
        outbox, transport, heard = boot(tmp_path), MemoryTransport(), list[bytes]()
        for payload in (b"1", b"2", b"3"):
            outbox.put("labels", payload)
        async with running(Uplink(outbox, [transport], heard.append, QUICK)):
            first = await cloud_of(transport)
            assert await first.take(4) == ["open", "1", "2", "3"]
            first.acknowledge(1)
            first.link.deliver(Down(again=True))
            second = await cloud_of(transport)
            opened = wire.decode(Up, await asyncio.wait_for(second.link.sent.get(), 10))
            assert opened.session and opened.next == 2
            second.opener, second.session = first.opener, first.session
            assert await second.take(2) == ["2", "3"]
            second.acknowledge(3)
            await until(lambda: outbox.reader().next() is None)
            second.link.deliver(Down(again=True))  # but nothing is in flight
            second.link.deliver(Down(desired=b"word"))
            await until(lambda: heard == [b"word"])
            assert transport.dialled == 2

    story(run)
