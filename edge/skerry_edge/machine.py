"""What this machine is, and how models are run on it: by its configuration, and where that is silent by its profile."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from skerry_edge.config import AgentConfig
from skerry_edge.infer.models import Settings, usable_runtimes
from skerry_shared import __version__, profiles
from skerry_shared.ports.runtime import CPU
from skerry_shared.profiles import Profile, Thermal


def this_machine() -> tuple[str, tuple[str, ...], int]:
    """Architecture as `uname -m` says, names of the runtimes that work, bytes of memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return platform.machine(), usable_runtimes(), memory


def profile_of(config: AgentConfig) -> Profile | None:
    """The device's profile; a fleet may have one that this agent has no file of."""
    return profiles.load(config.profile) if config.profile in profiles.names() else None


def thermal_of(config: AgentConfig) -> Thermal:
    """Where the board is warm and where it is asked."""
    profile = profile_of(config)
    return profile.thermal if profile else Thermal()


def settings_of(config: AgentConfig) -> Settings:
    """How models are to be run here."""
    profile = profile_of(config)
    providers = config.providers or (profile.providers if profile else (CPU,))
    return Settings(providers, config.threads, config.model_mb << 20)


def budget_mb(config: AgentConfig) -> float:
    """Memory that all models together may take."""
    profile = profile_of(config)
    return config.models_mb or (profile.memory_mb if profile else this_machine()[2] / (1 << 20))


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
