"""Other servers of the same model, each in an environment of its own below build/bench; skipped where it cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def run(row: Callable[..., None], model: Path, scale: float) -> dict[str, Any]:
    return {}
