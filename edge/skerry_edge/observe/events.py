"""Changes of state on this device: told to the cloud as rows of table "events", and the last of them kept at hand."""

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skerry_edge.observe.arrow import pack
from skerry_shared.files import write_durably

log = logging.getLogger(__name__)

Sink = Callable[[str, bytes], None]  # (table, packed rows)
Event = dict[str, Any]  # a row of table "events"

KEPT = 50  # events that `skerry-agent status` can show without a cloud


class EventLog:
    """Thread-safe. ``path`` is a JSON list, oldest first."""

    def __init__(self, path: Path, sink: Sink) -> None:
        self._path, self._sink, self._lock = path, sink, threading.Lock()

    def add(self, event: Event) -> None:
        """Keep the event and pass it on. Its keys are the columns of table "events"."""
        with self._lock:
            self._keep([*last(self._path), event][-KEPT:])
        self._sink("events", pack("events", {key: [value] for key, value in event.items()}))

    def _keep(self, events: list[Event]) -> None:
        try:
            write_durably(self._path, json.dumps(events, indent=1).encode())
        except OSError as error:  # a full disk must not stop what happened
            log.warning("events: not kept: %s", error)


def last(path: Path) -> list[Event]:
    """The events that are kept at ``path``, oldest first; a damaged file counts as none, for the cloud has them too."""
    try:
        events: list[Event] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return []
    return events
