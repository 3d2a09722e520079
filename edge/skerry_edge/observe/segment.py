"""One file of the spool: the opening of a session as record 0, then sealed batches of that session.

A record is its length, a CRC-32 and its counter (16 bytes, little-endian), then a serialised ``Up``. The counters of
batches rise by one. After a crash the file ends before its first record that is cut short, damaged or out of order.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from skerry_shared import wire
from skerry_shared.errors import InputError
from skerry_shared.ports.carrier import MAX_MESSAGE
from skerry_shared.telemetry import Session, SignedSession, Up

HEAD = struct.Struct("<IIQ")  # length of the Up in bytes, CRC-32 of counter and Up, counter


@dataclass(frozen=True)
class Entry:
    """A record read back; ``end`` is the offset after it."""

    counter: int
    up: bytes
    end: int


class Segment:
    """Not thread-safe. Every method raises OSError if the disk refuses."""

    def __init__(self, path: Path, session: bytes) -> None:
        self.path, self.session = path, session
        self.size = 0  # bytes up to the end of the last good record
        self.first = 1  # counter of the first batch
        self.last = 0  # counter of the last batch
        self.acknowledged = 0
        self._file: FileIO | None = None  # while it takes records

    @classmethod
    def create(cls, path: Path, opening: SignedSession) -> "Segment":
        """A new file that takes batches of the session which ``opening`` opens."""
        segment = cls(path, wire.decode(Session, opening.document).session)
        segment._file = FileIO(path, "xb")
        try:
            segment._write(0, wire.encode(Up(session=opening)))
        except OSError:
            segment.close()
            path.unlink()
            raise
        return segment

    @classmethod
    def recover(cls, path: Path) -> "Segment":
        """What a crash left of a file. Raises InputError if not even its opening is whole."""
        with path.open("rb") as file:
            entries = _entries(file, 0)
            segment = cls(path, _session_of(next(entries, None)))
            segment.size = file.tell()
            for entry in entries:
                if segment.last and entry.counter != segment.last + 1:
                    break
                segment._note(entry.counter, entry.end)
        return segment

    @property
    def batches(self) -> int:
        """How many there are."""
        return self.last - self.first + 1 if self.last else 0

    @property
    def waiting(self) -> int:
        """How many wait for their acknowledgement."""
        return max(0, self.last - max(self.acknowledged, self.first - 1))

    @property
    def done(self) -> bool:
        """Whether no batch waits for its acknowledgement."""
        return self.waiting == 0

    def append(self, counter: int, up: bytes) -> None:
        """Add a batch: durable after ``sync``."""
        self._write(counter, up)
        self._note(counter, self.size)

    def read(self, offset: int) -> Entry | None:
        """The next entry at or after ``offset`` that is not acknowledged; the opening never is."""
        with self.path.open("rb") as file:
            for entry in _entries(file, offset, self.size):
                if entry.counter == 0 or entry.counter > self.acknowledged:
                    return entry
        return None

    def sync(self) -> None:
        """Make durable what was appended."""
        if self._file is not None:
            os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Take no more records."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, counter: int, up: bytes) -> None:
        assert self._file is not None
        record = memoryview(HEAD.pack(len(up), _checksum(counter, up), counter) + up)
        while record:
            record = record[self._file.write(record) :]
        self.size = self._file.tell()

    def _note(self, counter: int, end: int) -> None:
        if not self.last:
            self.first = counter
        self.last, self.size = counter, end


def record_bytes(up: bytes) -> int:
    """The size of a record in a segment."""
    return HEAD.size + len(up)


def _entries(file: BinaryIO, offset: int, end: int | None = None) -> Iterator[Entry]:
    """Good records from ``offset`` on, before ``end``; stops at the first that is not good."""
    file.seek(offset)
    while end is None or file.tell() < end:
        head = file.read(HEAD.size)
        if len(head) < HEAD.size:
            return
        length, checksum, counter = HEAD.unpack(head)
        if length > MAX_MESSAGE:
            return
        up = file.read(length)
        if len(up) < length or _checksum(counter, up) != checksum:
            return
        yield Entry(counter, up, file.tell())


def _session_of(opening: Entry | None) -> bytes:
    up = wire.decode(Up, opening.up) if opening else Up()
    if up.session is None:
        raise InputError("segment: does not begin with the opening of a session")
    return wire.decode(Session, up.session.document).session


def _checksum(counter: int, up: bytes) -> int:
    return zlib.crc32(up, zlib.crc32(counter.to_bytes(8, "little")))
