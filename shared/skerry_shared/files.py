"""Writes that survive a power cut: temporary file, fsync, rename, fsync of the folder."""

import os
from pathlib import Path


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
