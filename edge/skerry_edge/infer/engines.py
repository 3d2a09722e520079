"""What was measured and built for a model, kept under a key of everything that it depends on.

engines/KEY/ in a workload's folder holds what a provider built (TensorRT's engines) and ``finding``. Another model,
runtime, provider, thread count, driver or board gives another key, so nothing here is ever stale. The oldest give way.
"""

import hashlib
import json
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from skerry_edge.infer.choose import Finding
from skerry_shared.files import write_durably

KEPT = 12  # keys: two slots and what they replaced, on three providers
FINDING = "finding"
DRIVERS = ("/proc/driver/nvidia/version", "/etc/nv_tegra_release", "/proc/device-tree/model")


@dataclass(frozen=True)
class Key:
    """Everything that an engine build and its speed depend on."""

    model_sha256: str
    runtime: str  # name and version
    provider: str
    threads: int
    device_class: str

    def name(self) -> str:
        """Of its folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


class Engines:
    """The folder. One process writes (the agent); any may read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, key: Key) -> Path:
        """The key's folder."""
        return self._folder / key.name()

    def made(self, key: Key) -> Path:
        """The key's folder, which exists; the oldest others are removed."""
        path = self.path(key)
        path.mkdir(parents=True, exist_ok=True)
        others = sorted((other for other in self._folder.iterdir() if other != path), key=_age, reverse=True)
        for old in others[KEPT - 1 :]:
            shutil.rmtree(old, ignore_errors=True)
        return path

    def save(self, key: Key, finding: Finding) -> None:
        """Keep what was found; only what can be used is worth it, for a fault may pass."""
        write_durably(self.made(key) / FINDING, json.dumps(asdict(finding)).encode())

    def finding(self, key: Key) -> Finding | None:
        """What was found before; None if nothing was, or it cannot be read."""
        try:
            return Finding(**json.loads((self.path(key) / FINDING).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


def device_class() -> str:
    """What this device shares with all on which the same engines run as fast: architecture, CPU, board, drivers."""
    parts = [platform.machine(), _cpu()]
    for path in map(Path, DRIVERS):
        if path.exists():
            parts.append(path.read_text(errors="replace").strip("\0\n"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cpu() -> str:
    """Its name as the kernel tells; Arm has numbers instead of a name."""
    wanted = ("model name", "CPU implementer", "CPU part")
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    return ", ".join(sorted({line for line in lines if line.startswith(wanted)}))


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
