"""Keeps the agent small: threads share one heap, and what only start-up or a model's loading needed is given back.

glibc keeps what was freed, and the kernel keeps pages of libraries mapped that ran once, for they still are in its page
cache. Code is mapped again by a page fault (a microsecond for 64 KB of it) when it is next run, so what is given back
too early costs next to nothing. See docs/decisions/0005.
"""

import ctypes
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

M_ARENA_MAX = -8  # of malloc.h

_libc = ctypes.CDLL(None)


def share_heap() -> None:
    """Let all threads use one heap: glibc would give each its own, which costs several MB and gains nothing."""
    if mallopt := getattr(_libc, "mallopt", None):  # musl has none, and needs none
        mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Return freed memory, and unmap the code that is not running; either is taken again as it is needed."""
    if trim := getattr(_libc, "malloc_trim", None):
        trim(0)
    for start, length in clean_code(Path("/proc/self/smaps").read_text().splitlines()):
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def clean_code(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Address and length of each mapping of a file, executable or read only, that is as it is on disk.

    A page that was written to (by the dynamic linker, by a debugger) would be lost: its mapping is left alone.
    """
    start = length = 0
    for line in smaps:
        field, *values = line.split()
        if not field.endswith(":"):
            start, end = (int(address, 16) for address in field.split("-"))
            of_file = values[0] in ("r-xp", "r--p") and "".join(values[4:5]).startswith("/")
            length = end - start if of_file else 0
        elif field == "Anonymous:" and values[0] == "0" and length:
            yield start, length
