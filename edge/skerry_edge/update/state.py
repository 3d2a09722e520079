"""What a device remembers of a workload's assignment across a power cut: one small JSON file, replaced durably.

``counter`` is the highest that was ever accepted for the workload, and never falls, not even when the workload is taken
off the device: an assignment below it is a replay. ``floor`` is the
latest signed time of issue: a clock behind it is wrong, and must not make something expired valid again.
"""

import base64
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skerry_shared import wire
from skerry_shared.errors import StateError
from skerry_shared.files import write_durably
from skerry_shared.release import Assignment
from skerry_shared.states import Update


@dataclass(frozen=True)
class Stored:
    """The last accepted assignment and how far it came."""

    counter: int = 0
    floor: int = 0  # Unix seconds
    document: bytes = b""  # the serialised assignment; empty before the first one
    state: Update | None = None
    before: Update | None = None  # the state that it came from
    time: float = 0.0  # Unix seconds, of the change to ``state``
    reason: str = ""  # of that change
    told: bool = True  # was that change reported?
    starts: int = 0  # of the agent while this assignment was being probed or proven

    @property
    def assignment(self) -> Assignment:
        """The assignment. Raises StateError before the first one."""
        if not self.document:
            raise StateError("no assignment was received yet")
        return wire.decode(Assignment, self.document)


class StateFile:
    """Loads and saves ``Stored``. One process owns it: the agent, by its lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Stored:
        """What was saved last. Raises StateError if the file is damaged: replays could not be told from news."""
        try:
            values: dict[str, Any] = json.loads(self._path.read_bytes())
            values["document"] = base64.b64decode(values["document"])
            for key in ("state", "before"):
                values[key] = Update(values[key]) if values[key] else None
            return Stored(**values)
        except FileNotFoundError:
            return Stored()
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(f"{self._path}: damaged ({error}); remove it to accept the next assignment") from None

    def save(self, stored: Stored) -> None:
        """Replace the file durably."""
        values = asdict(stored) | {"document": base64.b64encode(stored.document).decode()}
        write_durably(self._path, json.dumps(values, indent=1).encode())
