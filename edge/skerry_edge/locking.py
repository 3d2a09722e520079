"""One agent a folder: two would tear each other's state. The kernel lets go of the lock when the process ends."""

import contextlib
import fcntl
from collections.abc import Iterator

from skerry_edge.config import Folders
from skerry_shared.errors import StateError


@contextlib.contextmanager
def locked(folders: Folders) -> Iterator[None]:
    """Hold the folder. Raises StateError if it is held."""
    folders.run.mkdir(mode=0o700, exist_ok=True)
    with folders.lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{folders.root}: an agent runs on this folder already") from None
        yield


def is_locked(folders: Folders) -> bool:
    """Does an agent run on the folder?"""
    try:
        with folders.lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
