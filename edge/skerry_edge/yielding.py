"""Long computations in Python beside requests that take less than a millisecond.

A thread that wants the interpreter waits for it up to the switch interval, and a request wants it several times: with
Python's own 5 ms it would be late by many answers. A shorter interval wakes each waiting thread as often, which costs a
busy server some 4 % of its requests (``scripts/bench serve``); so it holds only while an update's step is under way.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH_S = 0.0005

_lock = threading.Lock()
_usual: list[float] = []  # the interval to go back to, once for each that computes


@contextmanager
def yielding() -> Iterator[None]:
    """What this thread computes meanwhile lets others go on after SWITCH_S. Any number of threads."""
    with _lock:
        _usual.append(_usual[0] if _usual else sys.getswitchinterval())
        sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        with _lock:
            usual = _usual.pop()
            if not _usual:
                sys.setswitchinterval(usual)
