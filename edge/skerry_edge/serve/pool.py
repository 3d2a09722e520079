"""The threads that answer gRPC's calls.

``concurrent.futures.ThreadPoolExecutor`` makes a future with a condition variable for each call and counts its idle
threads by a semaphore in Python, which takes a twelfth of the requests that a server of a small model can answer. Of
what a pool returns gRPC only asks to be told when the call has ended.

It also wakes its threads in turn, so that each finds the caches cold. Here the last to become idle goes first.
"""

import logging
import threading
import weakref
from collections import deque
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


Waker = SimpleQueue[Call | None]  # brings an idle thread a call, or the end


class Pool:
    """So many threads, begun as calls come, that end with the pool. Serves as a ``grpc.server``'s thread pool."""

    def __init__(self, threads: int) -> None:
        self._crew, self._to_begin = _Crew(), threads
        weakref.finalize(self, self._crew.dismiss)

    def submit(self, answer: Callable[..., object], /, *args: Any, **kwargs: Any) -> Call:
        """Have a call answered by the next thread that is free. One thread at a time, as gRPC does."""
        call = Call(partial(answer, *args, **kwargs))
        if not self._crew.take(call) and self._to_begin:
            self._to_begin -= 1
            threading.Thread(target=self._crew.work, name="skerry-grpc", daemon=True).start()
        return call


class _Crew:
    """Calls that no thread has begun, oldest first, and the idle threads, by what wakes them; at no time both."""

    def __init__(self) -> None:
        self._lock, self._dismissed = threading.Lock(), False
        self._calls, self._idle = deque[Call](), list[Waker]()

    def take(self, call: Call) -> bool:
        """Whether a thread was idle. That which was so last begins at once, for its stack is still in the caches."""
        with self._lock:
            if self._idle:
                self._idle.pop().put(call)
                return True
            self._calls.append(call)
            return False

    def work(self) -> None:
        """Answer calls until dismissed."""
        waker = Waker()
        while call := self._next(waker):
            call.run()
            del call  # or what it was about would be kept until the next one comes

    def dismiss(self) -> None:
        """Let the threads end once no call waits; none may come any more. No lock: a garbage collection runs this, in
        whatever thread and wherever that is, even in ``_next``."""
        self._dismissed = True
        for waker in list(self._idle):
            waker.put(None)

    def _next(self, waker: Waker) -> Call | None:
        with self._lock:
            if self._calls:
                return self._calls.popleft()
            self._idle.append(waker)
            if self._dismissed:  # looked at last: whoever is not seen idle sees this
                return None
        return waker.get()
