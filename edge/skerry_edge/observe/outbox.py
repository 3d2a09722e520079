"""The one way out for what a device has to tell: seal, store durably, wake the uplink.

Each class of tables (``telemetry.CLASSES``) has a spool and a session of its own, so that the counters of a class have
a gap only where that class lost something. All spools share one bound. When there is no room, the least precious class
gives up its oldest segment first; a batch for which only more precious ones could make room is lost itself.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from skerry_edge.observe.spool import Cursor, Record, Spool
from skerry_shared import wire
from skerry_shared.errors import InputError, StateError
from skerry_shared.ports.carrier import MAX_MESSAGE
from skerry_shared.sealing import Sealer
from skerry_shared.telemetry import CLASS_OF, CLASSES, TABLES, Up

log = logging.getLogger(__name__)

ENVELOPE = 4096  # bytes around a payload, at most
SEGMENTS = 16  # a full outbox has about so many: dropping one loses a sixteenth
BOUND, DISK, BUDGET = "bound", "disk", "budget"  # why a batch was lost


class Loss(NamedTuple):
    """Of batches: their class and why."""

    kind: str
    reason: str


class Lane(NamedTuple):
    """A class of tables."""

    spool: Spool
    sealer: Sealer


class Outbox:
    """Any thread may call any method. One process at a time may own the folder."""

    def __init__(self, folder: Path, max_bytes: int, sealer: Callable[[], Sealer]) -> None:
        """Recover what is in ``folder``; hold at most ``max_bytes`` in it. ``sealer`` gives a new session each time."""
        self.lost = Counter[Loss]()  # batches, since the process started
        self._max_bytes = max_bytes
        self._lanes = {name: Lane(Spool(folder / name, max_bytes // SEGMENTS), sealer()) for name in CLASSES}
        self._lock = threading.Lock()
        self._wake: Callable[[], None] = lambda: None
        for spool, own in self._lanes.values():
            spool.begin(own.opening)

    def put(self, table: str, payload: bytes) -> None:
        """Seal one packed batch; it is on disk when this returns, or counted in ``lost``.

        Raises InputError if the table is unknown or the payload too large.
        """
        if table not in TABLES:
            raise InputError(f"table: no {table!r}; known: {', '.join(TABLES)}")
        if len(payload) > MAX_MESSAGE - ENVELOPE:
            raise InputError(f"{table}: a batch of {len(payload)} bytes; at most {MAX_MESSAGE - ENVELOPE}")
        kind = CLASS_OF[table]
        try:
            if ticket := self._store(kind, table, payload):
                self._lanes[kind].spool.sync(ticket)
        except (StateError, OSError) as error:
            self._lose(Loss(kind, DISK), 1, error)
        self._wake()

    def exceeded(self, table: str, why: str) -> None:
        """Count a batch that does not come, for there was no budget left for it."""
        self._lose(Loss(CLASS_OF[table], BUDGET), 1, why)

    def on_put(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` after each ``put``, in its thread."""
        self._wake = wake

    def reader(self) -> "Reader":
        """Reads what waits, from the beginning."""
        return Reader({name: lane.spool for name, lane in self._lanes.items()})

    def acknowledge(self, session: bytes, counter: int) -> None:
        """See ``Spool.acknowledge``."""
        for spool, _ in self._lanes.values():
            spool.acknowledge(session, counter)

    def sizes(self) -> dict[str, int]:
        """Bytes on disk, by class."""
        return {name: lane.spool.size for name, lane in self._lanes.items()}

    def close(self) -> None:
        """Make everything durable and close the files. Raises StateError if the disk refuses."""
        for spool, _ in self._lanes.values():
            spool.close()

    def _store(self, kind: str, table: str, payload: bytes) -> int | None:
        """The ticket of the batch; None if there is no room for it."""
        spool, sealer = self._lanes[kind]
        with self._lock:  # batches are written in the order of their counters
            up = wire.encode(Up(batch=sealer.seal(table, payload)))
            if not self._make_room(kind, spool.cost(up)):
                self._lose(Loss(kind, BOUND), 1, f"{len(up)} bytes do not fit into {self._max_bytes}")
                return None
            return spool.write(sealer.counter, up)

    def _make_room(self, kind: str, length: int) -> bool:
        """Drop what is less precious or older than a batch of this class; nothing if that would not be enough."""
        lower = _not_above(kind)
        if self._over(length) > sum(self._lanes[name].spool.size for name in lower):
            return False
        for name, spool in ((name, self._lanes[name].spool) for name in lower):
            while spool.size and self._over(length) > 0:
                self._lose(Loss(name, BOUND), spool.drop_oldest(), "older than what came")
        return True

    def _over(self, length: int) -> int:
        """Bytes by which ``length`` more would exceed the bound."""
        return sum(self.sizes().values()) + length - self._max_bytes

    def _lose(self, loss: Loss, batches: int, why: object) -> None:
        if batches:
            self.lost[loss] += batches
            log.error("telemetry lost: %d batches of %s, %d so far: %s", batches, loss.kind, self.lost[loss], why)


class Reader:
    """Gives each record once: of the most precious class that has one, the oldest. One thread at a time."""

    def __init__(self, spools: Mapping[str, Spool]) -> None:
        self._spools, self._cursors = spools, dict.fromkeys(spools, Cursor())

    def next(self) -> Record | None:
        """None if nothing waits, or all that does was given already."""
        for name, spool in self._spools.items():
            if record := spool.read(self._cursors[name]):
                self._cursors[name] = record.after
                return record
        return None


def _not_above(kind: str) -> list[str]:
    """The classes that give way to this one, the first to do so first; the last is itself."""
    names = list(CLASSES)
    return names[names.index(kind) :][::-1]
