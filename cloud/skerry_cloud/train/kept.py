"""What training has come to, on disk after each epoch: whoever was killed goes on from there, to the same end."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from skerry_shared.files import write_durably


class Kept:
    """A file with the state of ``parts`` (what has ``state_dict``), the random numbers, and how many steps are done."""

    def __init__(self, path: Path, about: Mapping[str, Any], **parts: Any) -> None:
        """``about`` says what is trained how: a file about something else is not gone on from."""
        self._path, self._about, self._parts = path, dict(about), parts

    def restore(self) -> int:
        """Put all parts into the state that is kept; the steps that were done then, 0 where there is nothing."""
        found: dict[str, Any] = {"about": None}
        if self._path.exists():
            found = torch.load(self._path, weights_only=True)
        if found["about"] != self._about:
            return 0
        for name, part in self._parts.items():
            part.load_state_dict(found[name])
        torch.set_rng_state(found["random"])
        done: int = found["done"]
        return done

    def keep(self, done: int) -> None:
        """Durably."""
        states = {name: part.state_dict() for name, part in self._parts.items()}
        content = io.BytesIO()
        torch.save({"about": self._about, "done": done, "random": torch.get_rng_state(), **states}, content)
        write_durably(self._path, content.getvalue())
