"""The one way out for what a device has to tell: seal, store durably, wake the uplink."""

import logging
import threading
from collections.abc import Callable

from skerry_edge.observe.spool import Cursor, Record, Spool
from skerry_shared import wire
from skerry_shared.errors import InputError, StateError
from skerry_shared.ports.carrier import MAX_MESSAGE
from skerry_shared.sealing import Sealer
from skerry_shared.telemetry import TABLES, Up

log = logging.getLogger(__name__)

ENVELOPE = 4096  # bytes around a payload, at most


class Outbox:
    """Any thread may call any method. The sealer's session must be new to the spool."""

    def __init__(self, spool: Spool, sealer: Sealer) -> None:
        self.lost = 0  # batches that the disk refused
        self._spool, self._sealer = spool, sealer
        self._lock = threading.Lock()
        self._wake: Callable[[], None] = lambda: None
        spool.begin(sealer.opening)

    def put(self, table: str, payload: bytes) -> None:
        """Seal one packed batch; it is on disk when this returns. What the disk refuses is counted in ``lost``.

        Raises InputError if the table is unknown or the payload too large.
        """
        if table not in TABLES:
            raise InputError(f"table: no {table!r}; known: {', '.join(TABLES)}")
        if len(payload) > MAX_MESSAGE - ENVELOPE:
            raise InputError(f"{table}: a batch of {len(payload)} bytes; at most {MAX_MESSAGE - ENVELOPE}")
        try:
            self._spool.sync(self._seal(table, payload))
        except StateError as error:
            self._count_lost(error)
        self._wake()

    def on_put(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` after each ``put``, in its thread."""
        self._wake = wake

    def read(self, cursor: Cursor) -> Record | None:
        """See ``Spool.read``."""
        return self._spool.read(cursor)

    def acknowledge(self, session: bytes, counter: int) -> None:
        """See ``Spool.acknowledge``."""
        self._spool.acknowledge(session, counter)

    def _seal(self, table: str, payload: bytes) -> int:
        with self._lock:  # batches are written in the order of their counters
            up = wire.encode(Up(batch=self._sealer.seal(table, payload)))
            return self._spool.write(self._sealer.counter, up)

    def _count_lost(self, error: StateError) -> None:
        with self._lock:
            self.lost += 1
        log.error("telemetry lost, %d batches so far: %s", self.lost, error)
