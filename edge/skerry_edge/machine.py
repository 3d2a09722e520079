"""What this machine is, as far as a bundle's target cares."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from skerry_edge.infer.models import usable_runtimes
from skerry_shared import __version__


def this_machine() -> tuple[str, tuple[str, ...], int]:
    """Architecture as `uname -m` says, names of the runtimes that work, bytes of memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return platform.machine(), usable_runtimes(), memory


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def versions() -> str:
    """What this agent is made of, in one line."""
    parts = [f"skerry {__version__}", f"python {platform.python_version()} {platform.machine()}"]
    return ", ".join(parts + [f"{package} {_version(package)}" for package in ("onnxruntime", "numpy", "grpcio")])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
