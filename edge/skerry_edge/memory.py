"""Keeps the agent small: threads share one heap, and what only start-up or a model's loading needed is given back.

glibc keeps what was freed, and the kernel keeps pages of libraries mapped that ran once, for they still are in its page
cache. Code is mapped again by a page fault (a microsecond for 64 KB of it) when it is next run, so what is given back
too early costs next to nothing. See docs/decisions/0005.
"""

import ctypes
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

M_ARENA_MAX = -8  # of malloc.h
CLEAN = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ \S+ +/.*\n(?:[A-Z].*\n)*?Anonymous: +0 kB", re.MULTILINE
)  # a mapping in smaps (proc_pid_smaps(5)); by an expression, for requests wait: it is some thousand lines

_libc = ctypes.CDLL(None)


def share_heap() -> None:
    """Let all threads use one heap: glibc would give each its own, which costs several MB and gains nothing."""
    if mallopt := getattr(_libc, "mallopt", None):  # musl has none, and needs none
        mallopt(M_ARENA_MAX, 1)


def give_back() -> None:
    """Return freed memory, and unmap the code that is not running; either is taken again as it is needed."""
    if trim := getattr(_libc, "malloc_trim", None):
        trim(0)
    for start, length in clean_code(Path("/proc/self/smaps").read_text()):
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def clean_code(smaps: str) -> Iterator[tuple[int, int]]:
    """Address and length of each mapping of a file, executable or read only, that is as it is on disk.

    A page that was written to (by the dynamic linker, by a debugger) would be lost: its mapping is left alone.
    """
    for mapping in CLEAN.finditer(smaps):
        start, end = (int(address, 16) for address in mapping.groups())
        yield start, end - start
