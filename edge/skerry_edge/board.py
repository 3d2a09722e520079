"""What board this is and how it fares: the device tree, /proc, /sys and a few files of /etc, read below one root.

``read`` gives what does not change while the machine runs, ``condition`` what does. Everything is optional: a file that
a kernel does not have, or that may not be read, means "not known", never an error. So a recorded tree of a few files
tests the same code that runs on the board.
"""

import hashlib
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from skerry_shared.profiles import Link, Profile, Storage

ROOT = Path("/")
LIMIT = 1 << 20  # bytes of a file that are looked at; /proc/cpuinfo of 512 cores is below it
PI_NOW = 0xF  # bits of get_throttled that say "now": undervoltage, capped, throttled, soft temperature limit
BRAKES = ("throt", "freq", "processor")  # in the names of cooling devices that slow something down; fans do not


@dataclass(frozen=True)
class Board:
    """What this machine is. Empty or zero means not known."""

    arch: str  # as `uname -m` says
    model: str
    compatible: tuple[str, ...]  # names of the device tree, the most exact one first
    cores: int
    features: tuple[str, ...]  # of the CPU, as /proc/cpuinfo spells them
    memory_mb: int
    pci: tuple[str, ...]  # "vendor:device" of what is plugged in
    system: str
    l4t: str  # NVIDIA's Linux for Tegra, "36.4.3"
    storage: Storage | None  # below the root file system
    links: tuple[Link, ...]  # that are up

    @property
    def kind(self) -> str:
        """The same for machines on which a compiled engine or a benchmark of one serves the other."""
        stable = self.arch, self.compatible, self.cores, self.features, self.memory_mb >> 9, self.pci, self.l4t
        return hashlib.sha256(repr(stable).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Condition:
    """How the board fares now."""

    hottest_c: float | None  # of the zones that were asked for, degrees Celsius
    throttled: bool  # the kernel or the firmware slows it down already
    power_mode: str  # nvpmodel's name, else the CPU governor; empty if not known


class Tree:
    """Files below a root. What cannot be read is empty."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def text(self, path: str) -> str:
        """The file's text without white space around it."""
        return self._bytes(self._root / path).decode(errors="replace").strip(" \n\t\0")

    def strings(self, path: str) -> tuple[str, ...]:
        """The NUL-terminated strings of a device-tree property."""
        return tuple(part for part in self._bytes(self._root / path).decode(errors="replace").split("\0") if part)

    def find(self, pattern: str) -> list[str]:
        """The paths that match, sorted."""
        return sorted(str(found.relative_to(self._root)) for found in self._root.glob(pattern))

    def texts(self, pattern: str) -> list[str]:
        """The text of every file that matches."""
        return [self.text(path) for path in self.find(pattern)]

    def _bytes(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(LIMIT)
        except OSError:  # absent, forbidden, or a sensor that does not answer
            return b""


def read(root: Path = ROOT, arch: str = "") -> Board:
    """The board whose files lie below ``root``; ``arch`` is the running one unless given."""
    tree, cpu = Tree(root), Tree(root).text("proc/cpuinfo")
    return Board(
        arch=arch or platform.machine(),
        model=tree.text("proc/device-tree/model") or tree.text("sys/class/dmi/id/product_name"),
        compatible=tree.strings("proc/device-tree/compatible"),
        cores=len(re.findall(r"^processor\s*:", cpu, re.M)),
        features=_features(cpu),
        memory_mb=_memory_mb(tree.text("proc/meminfo")),
        pci=_pci(tree),
        system=_quoted(tree.text("etc/os-release"), "PRETTY_NAME"),
        l4t=_l4t(tree.text("etc/nv_tegra_release")),
        storage=_storage(tree),
        links=_links(tree),
    )


def condition(zones: Iterable[str] = (), root: Path = ROOT) -> Condition:
    """How hot and how fast the board is; ``zones`` are the types of thermal zones that count, none for all."""
    tree = Tree(root)
    heat = _temperatures(tree, set(zones))
    return Condition(max(heat, default=None), _throttled(tree), _power_mode(tree))


def differences(profile: Profile, board: Board) -> list[str]:
    """In what the board is less than its profile expects; a fast model is slow, or none, there. Pure."""
    found = []
    if board.arch != profile.arch:
        found.append(f"the profile is for {profile.arch}, this is {board.arch}")
    if 0 < board.cores < profile.cores:
        found.append(f"{board.cores} of {profile.cores} cores are online; is the power mode low?")
    if board.features and (missing := set(profile.features) - set(board.features)):
        found.append(f"the CPU lacks {', '.join(sorted(missing))}")
    if absent := profile.pci - set(board.pci):
        found.append(f"not on the PCI bus: {', '.join(sorted(absent))}; is its driver installed?")
    return found


def modes_differ(profile: Profile, now: Condition) -> str:
    """Why figures of this machine cannot be compared with the profile's; empty if they can. Pure."""
    if not profile.power_modes or not now.power_mode or now.power_mode in profile.power_modes:
        return ""
    return f"power mode {now.power_mode}, the profile knows {', '.join(profile.power_modes)}"


def _features(cpu: str) -> tuple[str, ...]:
    found = re.search(r"^(?:Features|flags)\s*:(.*)$", cpu, re.M)
    return tuple(sorted(found[1].split())) if found else ()


def _memory_mb(text: str) -> int:
    found = re.search(r"^MemTotal:\s*(\d+) kB", text, re.M)
    return int(found[1]) >> 10 if found else 0


def _pci(tree: Tree) -> tuple[str, ...]:
    folders = [path.removesuffix("/vendor") for path in tree.find("sys/bus/pci/devices/*/vendor")]
    return tuple(sorted({":".join(tree.text(f"{f}/{part}")[2:] for part in ("vendor", "device")) for f in folders}))


def _quoted(text: str, key: str) -> str:
    found = re.search(rf'^{key}="?([^"\n]*)"?$', text, re.M)
    return found[1] if found else ""


def _l4t(text: str) -> str:
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else ""


def _storage(tree: Tree) -> Storage | None:
    mounted = [line.split() for line in tree.text("proc/mounts").splitlines()]
    device = next((os.path.basename(words[0]) for words in mounted if words[1:2] == ["/"]), "")  # noqa: PTH119
    if not device.startswith("mmcblk"):
        return "nvme" if device.startswith("nvme") else "disk" if device else None
    card = tree.text(f"sys/block/{device.partition('p')[0]}/device/type")
    return "sd" if card == "SD" else "emmc"


def _links(tree: Tree) -> tuple[Link, ...]:
    up = [path.removesuffix("/operstate") for path in tree.find("sys/class/net/*/operstate") if tree.text(path) == "up"]
    return tuple(sorted({_link(tree, path) for path in up}))


def _link(tree: Tree, path: str) -> Link:
    if path.rpartition("/")[2].startswith(("ww", "ppp")):
        return "metered"
    return "wifi" if tree.find(f"{path}/wireless") else "ethernet"


def _temperatures(tree: Tree, zones: set[str]) -> list[float]:
    folders = [path.removesuffix("/type") for path in tree.find("sys/class/thermal/thermal_zone*/type")]
    wanted = [folder for folder in folders if not zones or tree.text(f"{folder}/type") in zones]
    values = [tree.text(f"{folder}/temp") for folder in wanted]
    return [int(value) / 1000 for value in values if re.fullmatch(r"-?\d+", value)]


def _throttled(tree: Tree) -> bool:
    firmware = tree.texts("sys/devices/platform/soc*/soc*:firmware/get_throttled")
    if any(int(bits, 16) & PI_NOW for bits in firmware if re.fullmatch(r"(0x)?[0-9a-fA-F]+", bits)):
        return True
    folders = [path.removesuffix("/type") for path in tree.find("sys/class/thermal/cooling_device*/type")]
    brakes = [f for f in folders if any(word in tree.text(f"{f}/type").lower() for word in BRAKES)]
    return any(tree.text(f"{folder}/cur_state") not in ("", "0") for folder in brakes)


def _power_mode(tree: Tree) -> str:
    chosen = re.search(r"pmode:0*(\d+)", tree.text("var/lib/nvpmodel/status"))
    if chosen:
        named = re.search(rf"POWER_MODEL ID={chosen[1]} NAME=(\S+)", tree.text("etc/nvpmodel.conf"))
        return named[1] if named else chosen[1]
    return tree.text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
