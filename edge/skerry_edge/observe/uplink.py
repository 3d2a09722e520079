"""The device's end of the acknowledgement protocol (docs/wire.md): send what waits, delete on the cloud's word only.

On a link each session begins with its opening, then its unacknowledged batches follow in order. Where the counters
have a gap (the spool dropped batches), all before it must be acknowledged first, then the opening is sent again. It
says which counter comes next, and so that what lies before will never come. Of several sessions the most precious class
goes first, and no more bytes a second than allowed, so that a fleet which comes back does not flood its cloud.

Transports are tried in order of preference. A link without an acknowledgement counts as a failure: the next transport
is tried at once, and after the last one the uplink waits, exponentially longer each round, with full jitter
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

import asyncio
import contextlib
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from skerry_edge.observe.outbox import Outbox, Reader
from skerry_edge.observe.spool import Record
from skerry_shared import wire
from skerry_shared.errors import InputError, LinkError
from skerry_shared.ports.carrier import Link, Transport
from skerry_shared.telemetry import Ack, Down, Up

log = logging.getLogger(__name__)

BURST_S = 10.0  # whose bytes may go at once: what is told as it happens does not wait


@dataclass(frozen=True)
class Limits:
    """How patient and how greedy an uplink is. Times in seconds."""

    bytes_s: float = math.inf  # that may be sent a second
    batches: int = 64  # in flight
    size: int = 8 << 20  # bytes in flight, or one batch if that is larger
    silence: float = 30.0  # without an acknowledgement while batches wait for it: the link is dropped
    first_wait: float = 0.5  # at most, after the first failed round
    longest_wait: float = 60.0  # at most, after many: a fleet of 1000 then dials 33 times a second


class Uplink:
    """Keeps one link open and empties the outbox over it. All methods belong to one event loop."""

    def __init__(
        self,
        outbox: Outbox,
        transports: Sequence[Transport],
        on_desired: Callable[[bytes], None],
        limits: Limits | None = None,
    ) -> None:
        """``on_desired`` is called in the loop with each serialised Signed assignment that arrives."""
        self.online: str | None = None  # name of the transport in use
        self.refused = 0  # batches that the cloud will never take
        self._outbox, self._transports, self._on_desired = outbox, tuple(transports), on_desired
        self._limits = limits or Limits()
        self._pace = Pace(self._limits.bytes_s)

    async def run(self) -> NoReturn:
        """Stay connected until cancelled."""
        failures = 0
        while True:
            fruitful = await self._round()
            failures = 0 if fruitful else failures + 1
            await asyncio.sleep(random.uniform(0, ceiling(self._limits, failures)))

    async def _round(self) -> bool:
        """Try each transport once; True as soon as a link is lost over which the cloud took something."""
        for transport in self._transports:
            conversation = _Conversation(self._outbox, self._limits, self._pace, self._take)
            try:
                async with transport.connect() as link:
                    self.online = transport.name
                    log.info("linked over %s", transport.name)
                    await conversation.run(link)
            except LinkError as error:
                log.info("%s: %s", transport.name, error)
            finally:
                self.online = None
            if conversation.acknowledged:
                return True
        return False

    def _take(self, down: Down) -> None:
        if down.desired is not None:
            self._on_desired(down.desired)
        elif down.ack is not None:
            if down.ack.refused:
                self.refused += down.ack.counter > 0
                log.error("the cloud refused batch %d: %s", down.ack.counter, down.ack.refused)
            self._outbox.acknowledge(down.ack.session, down.ack.counter)


def ceiling(limits: Limits, failures: int) -> float:
    """The longest wait, in seconds, after so many failed rounds in a row."""
    return min(limits.longest_wait, limits.first_wait * 2.0 ** min(failures, 32))


@dataclass
class Pace:
    """When one may send again: the generic cell rate algorithm (ITU-T I.371). Times in seconds of one clock."""

    bytes_s: float
    due: float = 0.0  # when all that was sent would have gone at the rate

    def delay(self, now: float) -> float:
        """How long to wait before sending."""
        return max(0.0, self.due - BURST_S - now)

    def spend(self, size: int, now: float) -> None:
        """So many bytes are sent."""
        self.due = max(self.due, now) + size / self.bytes_s


class _Conversation:
    """One link's life."""

    def __init__(self, outbox: Outbox, limits: Limits, pace: Pace, take: Callable[[Down], None]) -> None:
        self.acknowledged = False  # whether the cloud took anything
        self._outbox, self._limits, self._pace, self._take = outbox, limits, pace, take
        self._flight = _Flight(limits)
        self._shunned: set[bytes] = set()  # sessions that the cloud cannot open
        self._changed = asyncio.Event()
        self._sent: dict[bytes, int] = {}  # by session: the counter of the last batch
        self._expired: Record | None = None  # waited too long for its acknowledgement

    async def run(self, link: Link) -> None:
        """Until the link is lost: raises LinkError."""
        self._outbox.on_put(_waker(asyncio.get_running_loop(), self._change))
        await _race(self._send(link), self._receive(link), self._watch())

    async def _send(self, link: Link) -> None:
        reader, openings = self._outbox.reader(), dict[bytes, bytes]()
        while True:
            await asyncio.sleep(self._pace.delay(_now()))  # before choosing: what is more precious may come meanwhile
            record = await self._next(reader)
            if record.counter == 0:
                openings[record.session] = record.up
            elif record.session not in self._shunned:
                await self._transmit(link, record, openings[record.session])

    async def _transmit(self, link: Link, record: Record, opening: bytes) -> None:
        if self._sent.get(record.session) != record.counter - 1:
            await self._until(lambda: not self._flight.holds(record.session))
            await self._pass(link, wire.encode(replace(wire.decode(Up, opening), next=record.counter)))
        await self._until(lambda: self._flight.has_room(len(record.up)))
        self._flight.add(record)
        self._change()
        await self._pass(link, record.up)
        self._sent[record.session] = record.counter

    async def _pass(self, link: Link, up: bytes) -> None:
        self._pace.spend(len(up), _now())
        await link.send(up)

    async def _receive(self, link: Link) -> None:
        async for message in link.receive():
            try:
                down = wire.decode(Down, message)
            except InputError as error:
                raise LinkError(f"the cloud sent {error}") from None
            self._take(down)
            if down.ack is not None:
                self._note(down.ack)
            elif down.again and self._flight.oldest:
                raise LinkError("the cloud asks for batches again")
        raise LinkError("closed by the cloud")

    async def _watch(self) -> None:
        """Raises LinkError once the oldest batch in flight has not been acknowledged for too long."""
        while True:
            await self._until(lambda: self._flight.oldest is not None)
            await self._see_land(self._flight.oldest)

    async def _see_land(self, oldest: Record | None) -> None:
        alarm = asyncio.get_running_loop().call_later(self._limits.silence, self._expire, oldest)
        try:  # not wait_for: before Python 3.12 it may swallow a cancellation
            await self._until(lambda: self._expired is oldest or self._flight.oldest is not oldest)
        finally:
            alarm.cancel()
        if self._expired is oldest:
            raise LinkError(f"no acknowledgement for {self._limits.silence:g} s")

    def _expire(self, oldest: Record | None) -> None:
        self._expired = oldest
        self._change()

    def _note(self, ack: Ack) -> None:
        if ack.refused and ack.counter == 0:
            self._shunned.add(ack.session)
            self._flight.land(ack.session)
        else:
            self.acknowledged = True
            self._flight.land(ack.session, ack.counter)
        self._change()

    async def _next(self, reader: Reader) -> Record:
        while (record := reader.next()) is None:
            await self._changed.wait()
        return record

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()  # wakes all who wait now
        self._changed = asyncio.Event()


class _Flight:
    """Batches that were sent and wait for their acknowledgement, oldest first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: deque[Record] = deque()
        self._size = 0

    @property
    def oldest(self) -> Record | None:
        return self._waiting[0] if self._waiting else None

    def has_room(self, size: int) -> bool:
        fits = len(self._waiting) < self._limits.batches and self._size + size <= self._limits.size
        return fits or not self._waiting

    def holds(self, session: bytes) -> bool:
        return any(record.session == session for record in self._waiting)

    def add(self, record: Record) -> None:
        self._waiting.append(record)
        self._size += len(record.up)

    def land(self, session: bytes, counter: int | None = None) -> None:
        """Forget what is acknowledged: all of the session up to ``counter``, or all of it."""
        self._waiting = deque(
            record
            for record in self._waiting
            if record.session != session or (counter is not None and record.counter > counter)
        )
        self._size = sum(len(record.up) for record in self._waiting)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _waker(loop: asyncio.AbstractEventLoop, change: Callable[[], None]) -> Callable[[], None]:
    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to wake
            loop.call_soon_threadsafe(change)

    return wake


async def _race(*work: Coroutine[Any, Any, None]) -> None:
    """Run all until the first ends; its error is ours."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
