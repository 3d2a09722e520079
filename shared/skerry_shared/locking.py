"""One process a folder: two would tear each other's state. The kernel lets go of the lock when the process ends.

And turns between threads.
"""

import contextlib
import fcntl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from skerry_shared.errors import StateError


@contextlib.contextmanager
def locked(file: Path, who: str) -> Iterator[None]:
    """Hold the lock ``file`` (created if missing). Raises StateError, naming ``who`` holds it, if it is held."""
    with file.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{file.parent}: {who} runs on this folder already") from None
        yield


def is_locked(file: Path) -> bool:
    """Does a process hold the lock?"""
    try:
        with file.open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def turn(lock: threading.Lock, every_s: float, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold ``lock``; ``waiting`` is called every so many seconds until it can be had."""
    while not lock.acquire(timeout=every_s):
        waiting()
    try:
        yield
    finally:
        lock.release()
