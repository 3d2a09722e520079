"""What runs when: one lane a model, below every way in.

A request runs in the thread that brought it, at once while the model's thread budget has room. Else it waits: the more
urgent first, then the older. When a run ends its place goes to the first that waits, which takes along what else waits
and fits into one batch, if this model gains by batches (``limits.batch``; see ``choose.batch_limit``). So a batch never
waits for company: it is made of what had to wait anyway, and there is none without a queue.

Nothing waits unboundedly: a full queue sheds at once (the least urgent, youngest request), and a request whose deadline
passes while it waits is never begun. Both are counted.
"""

import threading
import time
from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from skerry_shared.errors import DeadlineError, ModelError, OverloadError, SkerryError
from skerry_shared.ports.runtime import Model, Tensors


@dataclass(frozen=True)
class Limits:
    """What one model may use."""

    threads: int = 1  # runs at a time
    waiting: int = 64  # requests that may wait; a few ms each is what an application still waits for
    batch: int = 1  # examples in a run that several requests share; 1: none is shared


@dataclass
class Load:
    """What became of requests that could not run at once; counts only rise."""

    waited: int = 0
    shared: int = 0  # that ran as part of another's batch
    shed: int = 0  # refused at once: the queue was full, or the device too hot for requests of low priority
    expired: int = 0  # the deadline passed before they began


class Lane:
    """Runs one model, within its limits. Thread-safe."""

    def __init__(
        self, model: Model, limits: Limits, load: Load | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``load`` is what to count in; ``clock`` gives seconds."""
        self._model, self._limits, self._clock = model, limits, clock
        self._permits = [True] * limits.threads  # list.pop and append are atomic: no lock while nothing waits
        self._queue: list[_Waiter] = []  # the next one first
        self._lock, self._numbers = threading.Lock(), 0
        self.load = load or Load()

    def run(self, inputs: Tensors, examples: int, deadline: float | None = None, priority: int = 0) -> Tensors:
        """Answer a checked request of so many examples. ``deadline``: by ``clock``; a higher priority goes first.

        Raises ModelError, OverloadError, or DeadlineError if it could not begin in time.
        """
        if deadline is not None and deadline <= self._clock():
            self.load.expired += 1
            raise DeadlineError("the deadline passed before the request arrived")
        if self._queue or not self._take_permit():
            return self._wait(_Waiter(inputs, examples, deadline, priority))
        try:
            return self._model.run(inputs)
        finally:
            self._give_back()

    def _take_permit(self) -> bool:
        try:
            return self._permits.pop()
        except IndexError:
            return False

    def _give_back(self) -> None:
        self._permits.append(True)
        if self._queue:  # whoever joins it after this line finds the permit itself
            with self._lock:
                self._dispatch()

    def _wait(self, waiter: "_Waiter") -> Tensors:
        with self._lock:
            self._admit(waiter)
            self._dispatch()
        try:
            if not waiter.turn.acquire(timeout=waiter.patience(self._clock())):
                self._withdraw(waiter)
                waiter.turn.acquire()
        except BaseException:  # Ctrl-C while it waits
            self._abandon(waiter)
            raise
        if waiter.batch:
            return self._lead(waiter)
        return waiter.answer()

    def _admit(self, waiter: "_Waiter") -> None:
        """Put it in line. Holds the lock. Raises OverloadError if it is the one to be shed."""
        self._numbers += 1
        waiter.number = self._numbers
        insort(self._queue, waiter)
        self.load.waited += 1
        if len(self._queue) > self._limits.waiting:
            self.load.shed += 1
            self._queue.pop().end(OverloadError(f"{self._limits.waiting} requests wait already; ask less, or later"))

    def _dispatch(self) -> None:
        """Give free permits to those who wait. Holds the lock."""
        while self._queue and self._take_permit():
            batch = self._pick()
            if not batch:
                self._permits.append(True)
                continue
            batch[0].batch = batch
            batch[0].turn.release()

    def _pick(self) -> "list[_Waiter]":
        """Take the first in line, and what may share its run; none if its deadline is over. Holds the lock."""
        first = self._queue.pop(0)
        if first.patience(self._clock()) == 0:
            self._expire(first)
            return []
        batch, room = [first], self._limits.batch - first.examples
        for other in [waiter for waiter in self._queue if room > 0 and waiter.kind == first.kind]:
            if other.examples <= room:
                room -= other.examples
                batch.append(other)
                self._queue.remove(other)
        self.load.shared += len(batch) - 1
        return batch

    def _withdraw(self, waiter: "_Waiter") -> None:
        """Its deadline passed; if its turn came in this very moment it runs all the same."""
        with self._lock:
            if waiter in self._queue:
                self._queue.remove(waiter)
                self._expire(waiter)

    def _abandon(self, waiter: "_Waiter") -> None:
        """Its thread goes away: what it was to lead goes back in line, and its permit to another."""
        with self._lock:
            if waiter in self._queue:
                self._queue.remove(waiter)
            elif waiter.batch:
                for other in waiter.batch[1:]:
                    insort(self._queue, other)
                self._permits.append(True)
                self._dispatch()

    def _expire(self, waiter: "_Waiter") -> None:
        self.load.expired += 1
        waiter.end(DeadlineError("the deadline passed before this request's turn came"))

    def _lead(self, waiter: "_Waiter") -> Tensors:
        """Run a batch for all who share it, in the thread of its first."""
        batch, waiter.batch = waiter.batch, []
        try:
            run_together(self._model, batch)
        finally:
            self._give_back()
            for other in batch[1:]:
                other.turn.release()
        return waiter.answer()


class _Waiter:
    """A request in line. ``turn`` is released once: to run ``batch`` if there is one, else to take the answer."""

    def __init__(self, inputs: Tensors, examples: int, deadline: float | None, priority: int) -> None:
        self.inputs, self.examples, self.deadline, self.priority = inputs, examples, deadline, priority
        self.kind = [(name, array.dtype, array.shape[1:]) for name, array in sorted(inputs.items())]
        self.turn, self.number = threading.Lock(), 0
        self.turn.acquire()
        self.batch: list[_Waiter] = []
        self.outputs: Tensors | None = None
        self.error: SkerryError = ModelError("the run that this request shared was cut short")

    def __lt__(self, other: "_Waiter") -> bool:
        return (-self.priority, self.number) < (-other.priority, other.number)

    def patience(self, now: float) -> float:
        """Seconds left; -1 is for ever, as ``Lock.acquire`` has it."""
        return -1 if self.deadline is None else min(max(0.0, self.deadline - now), threading.TIMEOUT_MAX)

    def end(self, error: SkerryError) -> None:
        self.error = error
        self.turn.release()

    def answer(self) -> Tensors:
        if self.outputs is None:
            raise self.error
        return self.outputs


def run_together(model: Model, batch: Sequence[_Waiter]) -> None:
    """Set each one's outputs or error. Where the batch fails each is run alone, for one may have spoilt it."""
    try:
        outputs = model.run(_joined([waiter.inputs for waiter in batch]))
    except ModelError as error:
        batch[0].error = error
        if len(batch) > 1:
            for waiter in batch:
                run_together(model, [waiter])
        return
    start = 0
    for waiter in batch:
        end = start + waiter.examples
        waiter.outputs = {name: array[start:end] for name, array in outputs.items()} if len(batch) > 1 else outputs
        start = end


def _joined(requests: Sequence[Tensors]) -> Tensors:
    if len(requests) == 1:
        return requests[0]
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}
