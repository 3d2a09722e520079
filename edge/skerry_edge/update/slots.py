"""Two slots, a and b, and one pointer that says which of them serves.

The pointer, ``active``, is one small file that is replaced atomically: that is the switch, and writing the
predecessor back is the undo. The other slot is spare: whatever lies in it, a half-written bundle too, may be thrown
away. Order of writes, each durable before the next: the pointer forgets the predecessor, the spare slot is emptied and
filled, its mark is written, the pointer moves.
"""

import contextlib
import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skerry_shared import bundle
from skerry_shared.errors import ModelError, StateError
from skerry_shared.files import sync_folder, write_durably
from skerry_shared.release import Manifest

NAMES = ("a", "b")
POINTER = "active"
MARK = "complete"  # inside a slot; holds the SHA-256 of the bundle that was unpacked there


@dataclass(frozen=True)
class Pointer:
    """Which slot holds which bundle; ``previous`` is what served before and can be put back."""

    slot: str
    workload: str
    release: int
    sha256: str
    previous: "Pointer | None" = None


class Slots:
    """Those of one workload, in its folder. One process writes (the agent); any may read."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.pointer = folder, folder / POINTER

    def active(self) -> Pointer | None:
        """What serves; None before the first switch. Raises StateError if the pointer is damaged."""
        try:
            values = json.loads(self.pointer.read_bytes())
            previous = values.pop("previous")
            return Pointer(**values, previous=Pointer(**previous) if previous else None)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(f"{self.pointer}: damaged ({error})") from None

    def path(self, slot: str) -> Path:
        """Where the slot's bundle is unpacked."""
        return self._folder / slot

    def holding(self, sha256: str) -> str | None:
        """The slot that holds this bundle, whole; None if neither does."""
        return next((slot for slot in NAMES if self._mark(slot) == sha256), None)

    def manifests(self) -> list[Manifest]:
        """Of the bundles that lie whole in the slots."""
        found = []
        for slot in filter(self._mark, NAMES):
            with contextlib.suppress(ModelError):  # who needs it hears of it
                found.append(bundle.manifest_of(self.path(slot)))
        return found

    def forget_predecessor_of(self, sha256: str) -> None:
        """If this bundle serves already there is nothing to switch, and nothing that an undo may put back."""
        active = self.active()
        if active and active.sha256 == sha256 and active.previous:
            self._write(replace(active, previous=None))

    def fill(self, data: bytes, sha256: str) -> str:
        """Unpack a verified bundle into the spare slot and name the slot. Raises ModelError if it is no bundle."""
        active = self.active()
        slot = NAMES[1] if active and active.slot == NAMES[0] else NAMES[0]
        if active and active.previous:
            self._write(replace(active, previous=None))
        folder = self._emptied(slot)
        folder.mkdir()
        bundle.unpack(data, folder)
        for inner in folder.rglob("*"):
            if inner.is_dir():  # Python 3.10 lists files for "*/" too
                sync_folder(inner)
        write_durably(folder / MARK, sha256.encode())
        return slot

    def switch(self, slot: str, workload: str, release: int, sha256: str) -> Pointer:
        """Let ``slot`` serve; what served until now becomes its predecessor."""
        active = self.active()
        pointer = Pointer(slot, workload, release, sha256, replace(active, previous=None) if active else None)
        self._write(pointer)
        return pointer

    def undo(self) -> None:
        """Put the predecessor back; without one nothing serves."""
        active = self.active()
        if active and active.previous:
            self._write(active.previous)
        elif active:
            self._forget()

    def clear(self) -> None:
        """Nothing serves, and nothing is kept: neither bundles nor what was built for them."""
        self._forget()
        for slot in NAMES:
            self._emptied(slot)
        for other in self._folder.iterdir():
            if other.is_dir():
                shutil.rmtree(other, ignore_errors=True)

    def _forget(self) -> None:
        self.pointer.unlink(missing_ok=True)
        sync_folder(self._folder)

    def _emptied(self, slot: str) -> Path:
        """The slot's place, with nothing there. The mark goes first: half a bundle must not pass for a whole one."""
        folder = self.path(slot)
        if (folder / MARK).exists():
            (folder / MARK).unlink()
            sync_folder(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def _write(self, pointer: Pointer) -> None:
        write_durably(self.pointer, json.dumps(asdict(pointer), indent=1).encode())

    def _mark(self, slot: str) -> str:
        try:
            return (self.path(slot) / MARK).read_text()
        except FileNotFoundError:
            return ""
