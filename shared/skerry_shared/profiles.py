"""Device profiles: what a kind of board is and needs, a TOML file each in ``devices/``, installed with the package.

The first five keys say what is built for it; the others what an agent expects to find there and how far it may go. A
key that a profile leaves out is not looked at. ``profile_for`` knows a board again.
"""

import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from skerry_shared.config import load_toml
from skerry_shared.errors import NotFoundError, UnfitError
from skerry_shared.release import Kind, Target

FOLDER = Path(sysconfig.get_path("data")) / "share/skerry/devices"
AUTO = "auto"  # in place of a name: the device shall find out
GENERIC = {"x86_64": "generic-x86-64", "aarch64": "generic-arm64"}  # for a board that no other profile knows

Provider = Literal["tensorrt", "cuda", "cpu"]
Storage = Literal["sd", "emmc", "nvme", "disk"]
Link = Literal["ethernet", "wifi", "metered"]


@dataclass(frozen=True)
class Accelerator:
    """A chip beside the CPU. An artifact for one ``variant`` is garbage to another: HAILO8 is not HAILO8L."""

    kind: Literal["gpu", "npu", "tpu"]
    vendor: str
    variant: str  # "sm_87", "HAILO8"
    runtimes: tuple[str, ...]  # that can use it, where they are installed
    pci: str = ""  # "vendor:device" by which it is found; empty for a part of the system on chip


@dataclass(frozen=True)
class Thermal:
    """Where it gets hot. Degrees Celsius, of the hottest of ``zones``."""

    zones: tuple[str, ...] = ()  # types of thermal zones, as the kernel says; empty: all of them
    warm_c: float = 75.0  # from here on the agent asks less of the board
    hot_c: float = 85.0  # … as little as it can; some degrees below the kernel's own throttling

    def __post_init__(self) -> None:
        """Raises ValueError, which ``decode`` turns into a ConfigError."""
        if not 0 < self.warm_c < self.hot_c:
            raise ValueError("needs 0 < warm_c < hot_c")


@dataclass(frozen=True)
class Profile:
    """A kind of device. ``arch`` as `uname -m` says; ``memory_mb`` is what the model's process may count on."""

    description: str
    arch: Literal["x86_64", "aarch64"]
    runtime: str
    precision: Literal["float32", "int8"]
    memory_mb: int
    device_tree: tuple[str, ...] = ()  # "compatible" strings, any of which names this board
    cores: int = 0
    features: tuple[str, ...] = ()  # of the CPU, as /proc/cpuinfo spells them
    unified_memory: bool = False  # an accelerator lives off the same memory as the CPU
    accelerators: tuple[Accelerator, ...] = ()
    providers: tuple[Provider, ...] = ("cpu",)  # of the runtime, in the order in which they are tried and measured
    power_modes: tuple[str, ...] = ()  # that figures may be compared in: nvpmodel's names or CPU governors
    thermal: Thermal = Thermal()
    storage: Storage = "disk"
    link: Link = "ethernet"

    def target(self, name: str) -> Target:
        """What a bundle for this profile demands of its device."""
        return Target(name, self.arch, self.runtime, self.precision, self.memory_mb << 20)

    @property
    def kind(self) -> Kind:
        """What is built for it."""
        return Kind(self.runtime, self.precision, self.arch)

    @property
    def pci(self) -> frozenset[str]:
        """Chips that must be plugged in for a board to be of this kind."""
        return frozenset(accelerator.pci for accelerator in self.accelerators if accelerator.pci)


class Hardware(Protocol):
    """What tells one board from another."""

    @property
    def arch(self) -> str: ...  # noqa: D102
    @property
    def compatible(self) -> Sequence[str]: ...  # noqa: D102 - the most exact name first
    @property
    def pci(self) -> Sequence[str]: ...  # noqa: D102 - "vendor:device"


def names() -> tuple[str, ...]:
    """All known profiles."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.toml")))


def load(name: str) -> Profile:
    """The profile called ``name``. Raises NotFoundError that lists the known ones."""
    if name not in names():
        raise NotFoundError(f"profile: no {name!r}; known: {', '.join(names()) or f'none in {FOLDER}'}")
    return load_toml(Profile, FOLDER / f"{name}.toml")


def load_all() -> dict[str, Profile]:
    """Every profile by its name."""
    return {name: load(name) for name in names()}


def profile_for(board: Hardware, known: Mapping[str, Profile]) -> str:
    """The name of the profile that knows this board best.

    The most exact device-tree name decides, then the number of chips that are plugged in. A board that none names is
    generic; a PC has no device tree, so that only its operator can say that it is more than that. Raises UnfitError
    on an architecture without a generic profile.
    """
    fits = {name: _distance(profile, board) for name, profile in known.items() if _is_one(profile, board)}
    if fits:
        return min(fits, key=lambda name: (fits[name], name))
    if GENERIC.get(board.arch) not in known:
        raise UnfitError(f"profile: none is for {board.arch}; known: {', '.join(sorted(known))}")
    return GENERIC[board.arch]


def _is_one(profile: Profile, board: Hardware) -> bool:
    named = set(profile.device_tree) & set(board.compatible)
    return profile.arch == board.arch and bool(named) and profile.pci <= set(board.pci)


def _distance(profile: Profile, board: Hardware) -> tuple[int, int]:
    exact = min(i for i, name in enumerate(board.compatible) if name in profile.device_tree)
    return exact, -len(profile.pci)
