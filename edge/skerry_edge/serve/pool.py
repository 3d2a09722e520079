"""The threads that answer gRPC's calls.

``concurrent.futures.ThreadPoolExecutor`` makes a future with a condition variable for each call and counts its idle
threads by a semaphore in Python, which takes a twelfth of the requests that a server of a small model can answer. Of
what a pool returns gRPC only asks to be told when the call has ended.
"""

import logging
import threading
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

log = logging.getLogger(__name__)

Told = Callable[["Call"], None]


class Call:
    """A call that is to be answered, or was; stands for the future."""

    __slots__ = ("_answer", "_ended", "_lock", "_told")

    def __init__(self, answer: Callable[[], object]) -> None:
        self._answer, self._told = answer, list[Told]()
        self._lock, self._ended = threading.Lock(), False

    def add_done_callback(self, told: Told) -> None:
        """Call ``told`` with this once it has ended; at once if it has."""
        with self._lock:
            if not self._ended:
                self._told.append(told)
                return
        told(self)

    def run(self) -> None:
        """Answer it. An error is logged: gRPC tells the client of those that its handlers raise."""
        try:
            self._answer()
        except BaseException:  # or its place among the calls would stay taken, and a thread be lost
            log.exception("a call ended by an error")
        with self._lock:
            self._ended = True
        for told in self._told:
            told(self)


class Pool:
    """So many threads, begun as calls come, that end with the pool. Serves as a ``grpc.server``'s thread pool."""

    def __init__(self, threads: int) -> None:
        self._calls, self._to_begin = SimpleQueue[Call | None](), threads
        weakref.finalize(self, _end, self._calls, threads)

    def submit(self, answer: Callable[..., object], /, *args: Any, **kwargs: Any) -> Call:
        """Have a call answered by the next thread that is free. One thread at a time, as gRPC does."""
        call = Call(partial(answer, *args, **kwargs))
        self._calls.put(call)
        if self._to_begin:
            self._to_begin -= 1
            threading.Thread(target=_work, args=(self._calls,), name="skerry-grpc", daemon=True).start()
        return call


def _work(calls: "SimpleQueue[Call | None]") -> None:
    while call := calls.get():
        call.run()
        del call  # or what it was about would be kept until the next one comes


def _end(calls: "SimpleQueue[Call | None]", threads: int) -> None:
    for _ in range(threads):
        calls.put(None)
