"""Device profiles: what a kind of board is and needs, a TOML file each in ``devices/``, installed with the package."""

import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skerry_shared.config import load_toml
from skerry_shared.errors import NotFoundError
from skerry_shared.release import Target

FOLDER = Path(sysconfig.get_path("data")) / "share/skerry/devices"


@dataclass(frozen=True)
class Profile:
    """A kind of device. ``arch`` as `uname -m` says; ``memory_mb`` is what the model's process may count on."""

    description: str
    arch: Literal["x86_64", "aarch64"]
    runtime: str
    precision: Literal["float32", "int8"]
    memory_mb: int

    def target(self, name: str) -> Target:
        """What a bundle for this profile demands of its device."""
        return Target(name, self.arch, self.runtime, self.precision, self.memory_mb << 20)


def names() -> tuple[str, ...]:
    """All known profiles."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.toml")))


def load(name: str) -> Profile:
    """The profile called ``name``. Raises NotFoundError that lists the known ones."""
    if name not in names():
        raise NotFoundError(f"profile: no {name!r}; known: {', '.join(names()) or f'none in {FOLDER}'}")
    return load_toml(Profile, FOLDER / f"{name}.toml")
