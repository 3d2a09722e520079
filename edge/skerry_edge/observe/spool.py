"""What waits on disk until the cloud has it: a folder of segments (see ``segment``), oldest first.

Rules:
- A batch is durable once ``sync`` of its ticket returned. Threads that wait together share one fdatasync.
- A segment belongs to one session, and its counters have no gap: a failed write or a gap begins a new one.
- A segment goes when the cloud has acknowledged all of it, or, oldest first and counted, by ``drop_oldest``.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from skerry_edge.observe.segment import Segment, record_bytes
from skerry_shared import wire
from skerry_shared.errors import InputError, StateError
from skerry_shared.files import sync_folder
from skerry_shared.telemetry import SignedSession, Up

RENEWED = 64 << 10  # bytes; an open segment of this size that is wholly acknowledged is not kept: less to send again


@dataclass(frozen=True)
class Cursor:
    """A place in the spool. The default is before everything."""

    segment: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Record:
    """A serialised Up: counter 0 is the session's opening, the others are batches. ``after`` is where to read on."""

    session: bytes
    counter: int
    up: bytes
    after: Cursor


class Spool:
    """Sealed batches on disk. Any thread may call any method. One process at a time may own the folder."""

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        """Recover what is in ``folder``, which the first batch creates; a segment takes up to ``segment_bytes``."""
        self.torn = 0  # segments that were cut short by a crash, or damaged
        self._folder, self._segment_bytes = folder, segment_bytes
        self._opening = SignedSession(b"", b"", b"")
        self._lock, self._syncing = threading.Lock(), threading.Lock()
        self._written = self._synced = self._failed = 0  # tickets
        self._open: Segment | None = None  # the newest, while it takes records
        self._closing: list[Segment] = []  # take no more records, not yet durable
        self._segments = dict(self._recover())
        self._next = max(self._segments, default=0) + 1

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in list(self._segments.values()))

    def begin(self, opening: SignedSession) -> None:
        """All further batches belong to the session that this opens."""
        with self._lock:
            self._retire()
            self._opening = opening

    def cost(self, up: bytes) -> int:
        """The bytes that writing this batch may take on disk: it may have to begin a segment."""
        return record_bytes(up) + record_bytes(wire.encode(Up(session=self._opening)))

    def write(self, counter: int, up: bytes) -> int:
        """Append a batch; ``counter`` must rise. The ticket is for ``sync``. Raises StateError if the disk refuses."""
        with self._lock:
            try:
                self._segment_for(counter, record_bytes(up)).append(counter, up)
            except OSError as error:
                self._retire()
                raise StateError(f"spool: batch {counter} could not be written: {error}") from None
            self._written += 1
            return self._written

    def sync(self, ticket: int) -> None:
        """Return once the batch of this ticket is durable. Raises StateError if the disk refuses."""
        with self._syncing:
            if ticket <= self._failed:
                raise StateError("spool: could not be made durable")
            if ticket <= self._synced:
                return
            with self._lock:
                newest, current = self._written, self._open
                closing, self._closing = self._closing, []
            try:
                _make_durable(closing, current)
            except OSError as error:
                self._failed = newest  # the kernel reports a failure once and may then call the lost pages clean
                with self._lock:
                    self._retire()
                raise StateError(f"spool: could not be made durable: {error}") from None
            self._synced = newest

    def read(self, cursor: Cursor) -> Record | None:
        """The first record at or after ``cursor`` that waits for its acknowledgement, or None.

        A segment is entered by its opening, which is returned like any other record.
        """
        with self._lock:
            for number in range(max(cursor.segment, min(self._segments, default=0)), self._next):
                segment = self._segments.get(number)
                if segment is None or segment.done:
                    continue
                entry = segment.read(cursor.offset if number == cursor.segment else 0)
                if entry is not None:
                    return Record(segment.session, entry.counter, entry.up, Cursor(number, entry.end))
        return None

    def acknowledge(self, session: bytes, counter: int) -> None:
        """The cloud has all of ``session`` up to ``counter``: let go of the segments that lie wholly below."""
        with self._lock:
            for number, segment in list(self._segments.items()):
                if segment.session == session:
                    segment.acknowledged = max(segment.acknowledged, counter)
                    self._let_go(number, segment)

    def drop_oldest(self) -> int:
        """Give up the oldest segment; how many batches that were not acknowledged are lost by it."""
        with self._lock:
            number = min(self._segments)
            segment = self._segments[number]
            if segment is self._open:
                self._open = None
                self._closing.append(segment)
            self._remove(number)
            return segment.waiting

    def close(self) -> None:
        """Make everything durable and close the files. Raises StateError if the disk refuses."""
        with self._lock:
            self._retire()
            self._written += 1
            ticket = self._written
        self.sync(ticket)

    def _recover(self) -> Iterator[tuple[int, Segment]]:
        for path in sorted(self._folder.glob("*.segment")):
            segment = _recover(path)
            self.torn += segment is None or segment.size < path.stat().st_size
            if segment is None or not segment.batches:
                path.unlink()
                continue
            os.truncate(path, segment.size)
            yield int(path.stem), segment

    def _segment_for(self, counter: int, length: int) -> Segment:
        """The segment that takes the next batch, of ``length`` bytes."""
        current = self._open
        full = current is not None and current.size + length > self._segment_bytes
        if current is None or full or counter != current.last + 1:
            self._retire()
            return self._start()
        return current

    def _start(self) -> Segment:
        if not self._folder.exists():  # not before: an agent must start on a full disk
            self._folder.mkdir(parents=True)
            sync_folder(self._folder.parent)
        self._open = Segment.create(self._folder / f"{self._next:012d}.segment", self._opening)
        self._segments[self._next] = self._open
        self._next += 1
        sync_folder(self._folder)
        return self._open

    def _retire(self) -> None:
        if self._open is None:
            return
        segment, self._open = self._open, None
        self._closing.append(segment)
        self._let_go(self._next - 1, segment)

    def _let_go(self, number: int, segment: Segment) -> None:
        if not segment.done:
            return
        if segment is self._open and segment.size >= RENEWED:
            self._retire()
        elif segment is not self._open:
            self._remove(number)

    def _remove(self, number: int) -> None:
        self._segments.pop(number).path.unlink()


def _recover(path: Path) -> Segment | None:
    try:
        return Segment.recover(path)
    except InputError:  # not even its opening: nobody could read what follows
        return None


def _make_durable(closing: list[Segment], current: Segment | None) -> None:
    try:
        for segment in (*closing, current) if current else closing:
            segment.sync()
    finally:
        for segment in closing:
            segment.close()
