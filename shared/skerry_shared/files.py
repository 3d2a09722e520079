"""Writes that survive a power cut: temporary file, fsync, rename, fsync of the folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skerry_shared.errors import StateError

RUN = "run.json"


def sync_folder(folder: Path) -> None:
    """Make the folder's entries (created, renamed, removed files) durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace ``path`` by ``content``: after a crash at any instant it holds the old or the new content, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def claim(folder: Path, run: Mapping[str, Any]) -> None:
    """Make ``folder`` the place for the results of this run, or go on with it: ``run.json`` in it says of which.

    Raises StateError if it holds another run's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / RUN
    if not about.exists():
        write_durably(about, json.dumps(run).encode())
    if json.loads(about.read_bytes()) != run:
        raise StateError(f"{folder}: holds results of another run, {about.read_text()}; choose another folder")
