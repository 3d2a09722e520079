"""Drives a flow in a thread of its own: what comes from other threads waits here, bounded."""

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skerry_edge.update.flow import UpdateFlow
from skerry_edge.update.plan import Order
from skerry_edge.yielding import yielding
from skerry_shared.ports.runtime import Tensors

BEAT_S = 5.0  # between signs of life while there is nothing to do
WAITING = 1024  # samples, labels and failures that may wait; older ones give way, for any of them serves as well


class Flow(Protocol):
    """What can be driven: takes in orders, and does what they ask for step by step."""

    def start(self) -> None: ...  # noqa: D102
    def receive(self, order: Order) -> None: ...  # noqa: D102
    def advance(self) -> float | None: ...  # noqa: D102 - seconds until the next call, None: until there is news


class Driver:
    """A thread that drives a flow. Thread-safe."""

    def __init__(self, name: str, flow: Flow, beat: Callable[[], None], broke: Callable[[Exception], None]) -> None:
        """``beat`` is called whenever the thread comes round: between steps and every few seconds of waiting.

        ``broke`` hears of an error that is no SkerryError: the process must not go on half alive.
        """
        self._flow, self._beat, self._broke = flow, beat, broke
        self._desired: deque[Order] = deque(maxlen=1)  # the newest order is the one that counts
        self._wake, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._live, name=f"skerry-{name}", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def desire(self, order: Order) -> None:
        """An order came that the director signed."""
        self._desired.append(order)
        self._wake.set()

    def close(self) -> None:
        """Let the thread end after its present step; it may still swap models and report."""
        self._closing = True
        self._wake.set()

    def join(self) -> None:
        """Wait for the thread's end."""
        if self._thread.ident:
            self._thread.join()

    def _live(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - whoever hears of it ends the process
            self._broke(error)

    def _work(self) -> None:
        self._flow.start()
        self._beat()
        while not self._closing:
            with yielding():
                wait_s = self._flow.advance()
            self._pause(wait_s)
            self._hear()

    def _hear(self) -> None:
        """Take in what came meanwhile."""
        while self._desired and not self._closing:
            self._flow.receive(self._desired.popleft())

    def _pause(self, seconds: float | None) -> None:
        """Wait for news, ``seconds`` at most, with signs of life."""
        end = float("inf") if seconds is None else time.monotonic() + seconds
        self._beat()
        while not self._wake.wait(max(0.0, min(BEAT_S, end - time.monotonic()))) and time.monotonic() < end:
            self._beat()
        self._wake.clear()


class Worker(Driver):
    """Drives an UpdateFlow, and passes on what comes about its models."""

    def __init__(
        self, name: str, flow: UpdateFlow, beat: Callable[[], None], broke: Callable[[Exception], None]
    ) -> None:
        super().__init__(name, flow, beat, broke)
        self.flow = flow
        self._urgent: deque[Callable[[], None]] = deque(maxlen=8)  # complaints; the same ones come again
        self._tasks: deque[Callable[[], None]] = deque(maxlen=WAITING)
        self.dropped = 0

    def sample(self, release: int, prediction_id: str, inputs: Tensors, scores: NDArray[np.float32]) -> None:
        """A live answer: the inputs as a batch of one, the scores one per label."""
        self._add(partial(self.flow.compare, release, prediction_id, inputs, scores))

    def learn(self, prediction_id: str, label: str) -> None:
        """The late truth of a prediction."""
        self._add(partial(self.flow.learn, prediction_id, label))

    def failed(self, release: int) -> None:
        """A live request that the model could not answer."""
        self._add(partial(self.flow.failed, release))

    def complain(self, release: int, reason: str) -> None:
        """The model that serves does not do its job; comes before all else that waits."""
        self._urgent.append(partial(self.flow.complain, release, reason))
        self._wake.set()

    def recheck(self) -> None:
        """The golden inputs are due again."""
        self._urgent.append(self.flow.recheck)
        self._wake.set()

    def settle(self) -> None:
        """The agent ran for long enough."""
        self._add(self.flow.settle)

    def _hear(self) -> None:
        while self._urgent and not self._closing:
            self._urgent.popleft()()
        super()._hear()
        while self._tasks and not (self._urgent or self._closing):
            self._tasks.popleft()()
            self._beat()

    def _add(self, task: Callable[[], None]) -> None:
        self.dropped += len(self._tasks) == WAITING
        self._tasks.append(task)
        self._wake.set()
