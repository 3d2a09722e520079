"""What devices send becomes rows of the lake, each exactly once, and is acknowledged only then (docs/wire.md).

1. Open the session: a device of this fleet signed it, and it is the device that the carrier authenticated.
2. Place the batch by its counter: new, again, or after a gap. A gap means that something was lost on the way, so the
   device is asked to send again, unless an opening says that the gap is meant: it tells which counter comes next.
3. Open and unpack it. Check the values of all that was waiting together: only where some do not fit, whose these are is
   found by halves. What does not fit goes to the quarantine, and the device is told why.
4. One commit a table for all that was waiting (group commit), then acknowledge. The next group is opened meanwhile; it
   is dropped if the commit fails, for nothing may be acknowledged before what came before it is durable.

The lake's watermarks make it exactly-once. Per table, ``device/session`` is the last counter in that table;
``device/session/all``, set by the group's last commit, says that all tables have everything up to it.

Several processes may ingest into one lake (docs/decisions/0011), whatever part of a session each of them sees and
however old what it remembers. A batch is accepted only behind what is durable or will never come, and the lake takes
rows only while the watermarks are those by which they were chosen; who was slower looks again at what is new.

``run`` never ends by what came: whatever a device sends, and whatever the lake or a listener makes of it, is logged.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

import pyarrow as pa
from cryptography import x509

from skerry_cloud.ingest import batches
from skerry_cloud.ingest.batches import Model, Told
from skerry_cloud.ingest.lake import QUARANTINE, Lake, schema
from skerry_cloud.ingest.sessions import Sessions
from skerry_shared import wire
from skerry_shared.errors import NotFoundError, ReplayError, SignatureError, SkerryError, TrustError
from skerry_shared.release import Channel
from skerry_shared.sealing import IngestKey, Opener
from skerry_shared.telemetry import TABLES, Ack, Down, Header, Sealed, Session, SignedSession, Up

log = logging.getLogger(__name__)

WAITING = 64 << 20  # bytes that may wait for their commit; carriers then read no more
GROUP = 1000  # messages a commit, at most
UNPACKED = 64 << 20  # bytes of rows after which a group is committed: a small message may hold many
COUNTERS = 1 << 63  # the lake counts in int64
LINGER = 0.2  # seconds between two commits, if a group is not full before
KNOWN = 100_000  # sessions in memory; others are found on disk again

Acknowledge = Callable[[str, bytes], Awaitable[bool]]
Committed = Callable[[str, pa.Table], Awaitable[None]]
Channels = Callable[[str, str, int], Awaitable[Sequence[Channel]]]


@dataclass
class _Session:
    opener: Opener
    taken: int  # counter of the last batch that was accepted
    next: int = 0  # counter that may follow a gap: an opening said that nothing before it will come
    asked: bool = False  # the device was asked to send again
    channels: dict[Model, Sequence[Channel]] = field(default_factory=dict)  # of models that it sent windows of

    @cached_property
    def name(self) -> str:
        """Of its watermark in each table."""
        return f"{self.opener.device}/{self.opener.session.hex()}"

    @property
    def name_of_all(self) -> str:
        return f"{self.name}/all"

    def place(self, counter: int) -> Literal["new", "again", "gap"]:
        if counter <= self.taken:
            return "again"
        return "new" if counter in (self.taken + 1, self.next) else "gap"


@dataclass
class _Batch:
    session: _Session
    header: Header
    payload: bytes
    told: Told | None = None
    refused: str = ""

    @property
    def table(self) -> str:
        """Where it is kept."""
        return QUARANTINE if self.refused else self.header.table

    @property
    def counter(self) -> int:
        return self.header.counter

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Whatever is wrong with it, the device would only send it again."""
        try:
            yield
        except Exception as error:
            self.refused = why = batches.reason_of(error)
            log.warning("%s: batch %d refused: %s", self.session.name, self.counter, why, exc_info=_unforeseen(error))


@dataclass(frozen=True)
class _Part:
    """What a table lacks of a group, and the watermarks by which that was found."""

    rows: pa.Table
    before: dict[str, int]


@dataclass
class _Group:
    """What one round commits and then says."""

    batches: list[_Batch] = field(default_factory=list)
    size: int = 0  # bytes of their rows
    taken: dict[str, tuple[_Session, int]] = field(default_factory=dict)  # by name: what is durable after the commit
    shunned: list[tuple[str, Ack]] = field(default_factory=list)  # sessions that cannot be opened
    gaps: list[str] = field(default_factory=list)  # devices of which something was lost on the way


class Ingest:
    """The consumer behind the carriers. All methods belong to one event loop; disk work is done in threads."""

    def __init__(
        self,
        lake: Lake,
        sessions: Path,
        fleet: str,
        authority: x509.Certificate,
        key: IngestKey,
        channels: Channels,
        acknowledge: Acknowledge,
        committed: Committed,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``channels(device, workload, release)``: of the baseline in the device's bundle; raises NotFoundError.

        ``acknowledge(device, serialised Down)`` passes a message to a device.

        ``committed(table, rows)`` is called with new rows once they are durable, before the device is told. It is not
        called again, neither after a crash nor after it raised (which is logged): what it feeds must catch up with the
        lake, by the rows' origin, at the start and now and then.
        """
        self._lake, self._sessions = lake, Sessions(sessions)
        self._fleet, self._authority, self._key = fleet, authority, key
        self._channels, self._acknowledge, self._committed, self._clock = channels, acknowledge, committed, clock
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()  # bounded in bytes, see arrived
        self._waiting = 0  # bytes in the queue
        self._room, self._full = asyncio.Event(), asyncio.Event()
        self._next_at = 0.0  # when the next group is due, by the loop's clock
        self._known: OrderedDict[tuple[str, bytes], _Session] = OrderedDict()
        self._unknown: OrderedDict[tuple[str, bytes], None] = OrderedDict()  # sessions that were complained of

    async def arrived(self, device: str, up: bytes) -> None:
        """Take a message from an authenticated device. Waits while more than ``WAITING`` bytes are ahead of it."""
        while self._waiting > WAITING:
            self._room.clear()
            await self._room.wait()
        self._waiting += len(up)
        self._queue.put_nowait((device, up))
        if self._queue.qsize() >= GROUP:
            self._full.set()

    async def run(self) -> NoReturn:
        """Commit and acknowledge until cancelled."""
        settling = asyncio.ensure_future(self._settle(_Group()))
        try:
            while True:
                messages = await self._next()
                while messages:
                    anew = settling.done()  # then nothing that is opened now builds on it
                    group = await asyncio.to_thread(self._open_some, messages)
                    if await settling or anew:
                        settling = asyncio.ensure_future(self._settle(group))
                    else:
                        self._forget(group)
        finally:
            settling.cancel()

    async def _settle(self, group: _Group) -> bool:
        """Commit and acknowledge; whether that went well."""
        try:
            await self._meet(group.batches)
            await self._commit(group.batches)
        except Exception:  # of the disk, of Delta: it must not be the end of all telemetry
            log.exception("could not store telemetry, devices will send it again")
            self._forget(group)
            return False
        await self._tell(group)
        return True

    async def _next(self) -> deque[tuple[str, bytes]]:
        messages = deque([await self._queue.get()])
        await self._gather()  # a commit costs about the same for one batch as for a thousand
        while len(messages) < GROUP and not self._queue.empty():
            messages.append(self._queue.get_nowait())
        self._waiting -= sum(len(up) for _, up in messages)
        self._room.set()
        return messages

    async def _gather(self) -> None:
        """Wait until a group is due or full."""
        now = asyncio.get_running_loop().time
        self._full.clear()
        if self._queue.qsize() < GROUP:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._next_at - now())
        self._next_at = now() + LINGER

    def _open_some(self, messages: deque[tuple[str, bytes]]) -> _Group:
        """Take messages until they are all taken or their rows fill a group."""
        group = _Group()
        while messages and group.size < UNPACKED:
            device, message = messages.popleft()
            try:
                self._open(device, message, group)
            except (SkerryError, OSError) as error:
                log.warning("%s sent what cannot be used: %s", device, error)
            except Exception:  # a parser's: no device may stop the others
                log.exception("%s sent what cannot be used", device)
        return group

    def _open(self, device: str, message: bytes, group: _Group) -> None:
        up = wire.decode(Up, message)
        if up.session is not None:
            self._open_session(device, up.session, up.next, group)
        elif up.batch is not None:
            self._open_batch(device, up.batch, group)

    def _open_session(self, device: str, signed: SignedSession, next: int, group: _Group) -> None:
        session = wire.decode(Session, signed.document).session
        try:
            opener = self._opener(device, signed)
        except TrustError as error:
            group.shunned.append((device, Ack(session, 0, str(error))))
            raise
        self._sessions.keep(device, session, signed)
        known = self._known.get((device, session)) or self._remember(opener)
        known.next, known.asked = next, False

    def _open_batch(self, device: str, sealed: Sealed, group: _Group) -> None:
        header = wire.decode(Header, sealed.header)
        if header.counter >= COUNTERS:
            raise TrustError(f"batch {header.counter}: counters end at {COUNTERS - 1}")
        session = self._session(device, header.session)
        if session is None:
            return
        place = session.place(header.counter)
        if place == "gap":
            self._ask_again(session, header.counter, group)
            return
        header, payload = session.opener.open(sealed)
        if place == "again":
            group.taken.setdefault(session.name, (session, session.taken))
            return
        batch = _Batch(session, header, payload)
        with batch.refusing():
            batch.told = batches.decode(header, payload)
        session.taken = header.counter
        group.taken[session.name] = session, header.counter
        group.batches.append(batch)
        group.size += batch.told.size if batch.told else len(payload)

    @staticmethod
    def _ask_again(session: _Session, counter: int, group: _Group) -> None:
        """Once: what follows was sent before the device heard of it."""
        if not session.asked:
            log.warning("%s: batch %d came after %d: all since is to come again", session.name, counter, session.taken)
            group.gaps.append(session.opener.device)
            session.asked = True

    def _opener(self, device: str, signed: SignedSession) -> Opener:
        opener = Opener(signed, self._fleet, self._authority, self._key)
        if opener.device != device:
            raise SignatureError(f"session: of {opener.device!r}, but brought by {device!r}")
        return opener

    def _session(self, device: str, session: bytes) -> _Session | None:
        """What is known of a session, from memory or disk; None, said once, if nothing is."""
        key = (device, session)
        if key not in self._known:
            signed = self._sessions.find(device, session)
            if signed is None:
                self._complain(key)
                return None
            return self._remember(self._opener(device, signed))
        self._known.move_to_end(key)
        return self._known[key]

    def _remember(self, opener: Opener) -> _Session:
        session = _Session(opener, 0)
        session.taken = max(self._lake.watermark(table, session.name_of_all) for table in (*TABLES, QUARANTINE))
        self._known[opener.device, opener.session] = session
        _trim(self._known)
        return session

    def _complain(self, key: tuple[str, bytes]) -> None:
        if key not in self._unknown:
            log.warning("%s: a batch of session %s, which was never opened", key[0], key[1].hex())
            self._unknown[key] = None
            _trim(self._unknown)

    async def _meet(self, group: list[_Batch]) -> None:
        """Learn the channels of the models that windows are of; those that are not known are found out later."""
        for batch in group:
            known = batch.session.channels
            for model in (batch.told.models if batch.told else frozenset()) - known.keys():
                with suppress(NotFoundError):
                    known[model] = await self._channels(batch.header.device, *model)

    async def _commit(self, group: list[_Batch]) -> None:
        """Make durable what the lake does not have yet, and pass it on table by table."""
        parts = await asyncio.to_thread(self._read, group)
        for table, part in parts.items():
            rows = await asyncio.to_thread(self._append, table, part, group, last=table == [*parts][-1])
            if rows.num_rows:
                await self._pass_on(table, rows)

    async def _pass_on(self, table: str, rows: pa.Table) -> None:
        try:
            await self._committed(table, rows)
        except Exception:  # the rows are safe, and whom they feed has to catch up
            log.exception("%d new rows of %s are in the lake, but could not be acted on", rows.num_rows, table)

    def _read(self, group: list[_Batch]) -> dict[str, _Part]:
        """Of each table, and last of the quarantine, what it lacks."""
        tables = dict.fromkeys(batch.table for batch in group if not batch.refused)
        found = {table: self._lacking(table, group) for table in tables}
        if any(batch.refused for batch in group):
            found[QUARANTINE] = self._lacking(QUARANTINE, group)
        return found

    def _lacking(self, table: str, group: list[_Batch]) -> _Part:
        """After a crash between two tables of a group, one has its part already."""
        here = [batch for batch in group if batch.table == table]
        before = {name: self._lake.watermark(table, name) for name in {batch.session.name for batch in here}}
        new = [batch for batch in here if batch.counter > before[batch.session.name]]
        return _Part(_rows_of(table, new, self._clock()), before)

    def _append(self, table: str, part: _Part, group: list[_Batch], last: bool) -> pa.Table:
        """The rows that the table lacked, now durable."""
        while True:
            with suppress(ReplayError):  # another process has some of it, so that less is new: there is an end
                return self._append_once(table, part, group, last)
            part = self._lacking(table, group)

    def _append_once(self, table: str, part: _Part, group: list[_Batch], last: bool) -> pa.Table:
        steps = [(batch.session.name, batch.counter) for batch in group if batch.table == table]
        steps_of_all = [(batch.session.name_of_all, batch.counter) for batch in group if last]
        before = part.before | {name: self._lake.watermark(table, name) for name, _ in steps_of_all}
        if marks := {name: counter for name, counter in steps + steps_of_all if counter > before[name]}:
            self._lake.append(table, part.rows, marks, before)
        return part.rows

    async def _tell(self, group: _Group) -> None:
        acks = list(group.shunned)
        for batch in group.batches:
            if batch.refused:
                acks.append(
                    (batch.session.opener.device, Ack(batch.session.opener.session, batch.counter, batch.refused))
                )
        for session, counter in group.taken.values():
            acks.append((session.opener.device, Ack(session.opener.session, counter)))
        for device, ack in acks:  # a device that is gone meanwhile sends again and is told then
            await self._say(device, Down(ack=ack))
        for device in group.gaps:
            await self._say(device, Down(again=True))

    async def _say(self, device: str, down: Down) -> None:
        try:
            await self._acknowledge(device, wire.encode(down))
        except Exception:  # a carrier's
            log.exception("%s: could not be told %s", device, down)

    def _forget(self, group: _Group) -> None:
        """Nothing is acknowledged; what is durable is looked up again when the devices send again."""
        for session, _ in group.taken.values():
            self._known.pop((session.opener.device, session.opener.session), None)


def _rows_of(table: str, group: Sequence[_Batch], received: float) -> pa.Table:
    """Of batches of one table; those that do not fit are refused, and have none."""
    if table == QUARANTINE:
        return batches.refuse([(one.header, one.payload, one.refused) for one in group], received)
    return pa.concat_tables([schema(table).empty_table(), *(_fitting(group, received) if group else ())])


def _fitting(group: Sequence[_Batch], received: float) -> list[pa.Table]:
    """Those that do not fit are looked for by halves, for they are few."""
    told, channels = [batch.told for batch in group if batch.told], [batch.session.channels for batch in group]
    if len(group) == 1:
        with group[0].refusing():
            return [batches.rows_of(told, channels, received)]
        return []
    with suppress(Exception):  # the halves tell whose it is
        return [batches.rows_of(told, channels, received)]
    half = len(group) // 2
    return _fitting(group[:half], received) + _fitting(group[half:], received)


def _unforeseen(error: Exception) -> Exception | None:
    """``error`` if its traceback tells more than its text."""
    return None if isinstance(error, SkerryError) else error


def _trim(known: "OrderedDict[Any, Any]") -> None:
    while len(known) > KNOWN:
        known.popitem(last=False)
