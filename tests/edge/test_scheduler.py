import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from skerry_edge.infer.engine import Active, Engine
from skerry_edge.infer.scheduler import Lane, Limits
from skerry_shared.errors import DeadlineError, ModelError, OverloadError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.testing.examples import MANIFEST


class Valve:
    """Doubles its input, but only once it is opened; refuses negative numbers; remembers its batches."""

    def __init__(self) -> None:
        self.opened, self.began = threading.Event(), threading.Semaphore(0)
        self.batches: list[list[float]] = []
        self.inside, self.most = 0, 0
        self._lock = threading.Lock()

    def run(self, inputs: Tensors) -> Tensors:
        with self._lock:
            self.batches.append(inputs["x"].tolist())
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.began.release()
        self.opened.wait(10)
        with self._lock:
            self.inside -= 1
        if (inputs["x"].astype(np.float64) < 0).any():
            raise ModelError("negative")
        return {"y": np.asarray(inputs["x"]) * 2}


class Busy:
    """A lane whose one run goes on until ``valve.opened`` is set; others are asked in order."""

    def __init__(self, pool: ThreadPoolExecutor, limits: Limits) -> None:
        self.valve, self.pool = Valve(), pool
        self.lane = Lane(self.valve, limits)
        self.first = pool.submit(self.lane.run, tensor(0), 1)
        assert self.valve.began.acquire(timeout=10)

    def ask(self, *values: float, timeout_s: float | None = None, priority: int = 0) -> "Future[Tensors]":
        before = self.lane.load.waited
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        answer = self.pool.submit(self.lane.run, tensor(*values), len(values), deadline, priority)
        wait_until(lambda: self.lane.load.waited > before)
        return answer

    def finish(self) -> list[list[float]]:
        """Let all run; the batches after the first, in order."""
        self.valve.opened.set()
        self.first.result(10)
        return self.valve.batches[1:]


def tensor(*values: float) -> dict[str, Any]:
    return {"x": np.array(values, np.float32)}


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture
def busy() -> Any:
    with ThreadPoolExecutor(32) as pool:
        made: list[Busy] = []

        def make(**limits: Any) -> Busy:
            made.append(Busy(pool, Limits(**limits)))
            return made[-1]

        yield make
        for one in made:
            one.valve.opened.set()


def test_the_more_urgent_goes_first_then_the_older(busy: Callable[..., Busy]) -> None:
    one = busy()
    answers = [one.ask(value, priority=priority) for value, priority in ((1, 0), (2, 0), (3, 5), (4, -1))]
    one.finish()
    assert [answer.result(10)["y"].tolist() for answer in answers] == [[2], [4], [6], [8]]
    assert one.valve.batches[1:] == [[3], [1], [2], [4]]


def test_overload_sheds_at_once(busy: Callable[..., Busy]) -> None:
    one = busy(waiting=2)
    kept = [one.ask(1), one.ask(2)]
    with pytest.raises(OverloadError, match="2 requests wait already"):
        one.ask(3).result(10)
    one.finish()
    assert [answer.result(10)["y"].tolist() for answer in kept] == [[2], [4]]
    assert one.lane.load.shed == 1


def test_an_urgent_request_takes_the_place_of_the_least_urgent(busy: Callable[..., Busy]) -> None:
    one = busy(waiting=2)
    older, younger = one.ask(1), one.ask(2)
    urgent = one.ask(3, priority=1)
    with pytest.raises(OverloadError):
        younger.result(10)
    one.finish()
    assert (older.result(10)["y"].tolist(), urgent.result(10)["y"].tolist()) == ([2], [6])


def test_what_waits_too_long_is_never_begun(busy: Callable[..., Busy]) -> None:
    one = busy()
    late = one.ask(1, timeout_s=0.01)
    with pytest.raises(DeadlineError):
        late.result(10)
    assert one.finish() == []
    assert one.lane.load.expired == 1


def test_a_deadline_that_passed_unnoticed() -> None:
    now, valve = [0.0], Valve()
    lane = Lane(valve, Limits(), clock=lambda: now[0])
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lane.run, tensor(0), 1)
        assert valve.began.acquire(timeout=10)
        second = pool.submit(lane.run, tensor(1), 1, 60.0)
        wait_until(lambda: lane.load.waited == 1)
        now[0] = 61.0
        valve.opened.set()
        first.result(10)
        with pytest.raises(DeadlineError):
            second.result(10)
        assert lane.run(tensor(2), 1)["y"].tolist() == [4]


def test_what_waits_shares_a_run(busy: Callable[..., Busy]) -> None:
    one = busy(batch=4)
    answers = [one.ask(*values) for values in ((1, 2), (3,), (4, 5), (6,))]
    one.finish()
    assert [answer.result(10)["y"].tolist() for answer in answers] == [[2, 4], [6], [8, 10], [12]]
    assert one.valve.batches[1:] == [[1, 2, 3, 6], [4, 5]]
    assert one.lane.load.shared == 2


def test_no_batch_of_unlike_requests(busy: Callable[..., Busy]) -> None:
    one = busy(batch=4)
    short, wide = one.ask(1), one.pool.submit(one.lane.run, {"x": np.ones((1, 2), np.float32)}, 1)
    wait_until(lambda: one.lane.load.waited == 2)
    one.finish()
    assert (short.result(10)["y"].tolist(), wide.result(10)["y"].tolist()) == ([2], [[2, 2]])


def test_one_bad_request_does_not_spoil_the_others(busy: Callable[..., Busy]) -> None:
    one = busy(batch=4)
    good, bad, well = one.ask(1), one.ask(-1), one.ask(2)
    one.finish()
    assert (good.result(10)["y"].tolist(), well.result(10)["y"].tolist()) == ([2], [4])
    with pytest.raises(ModelError, match="negative"):
        bad.result(10)


def test_an_interrupted_thread_gives_its_place_up(busy: Callable[..., Busy]) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    one, before = busy(), signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            one.lane.run(tensor(1), 1)
    finally:
        signal.signal(signal.SIGALRM, before)
    last = one.ask(2)
    one.finish()
    assert last.result(10)["y"].tolist() == [4]


@pytest.mark.parametrize(("threads", "batch"), [(1, 1), (3, 1), (1, 8), (2, 8)])
def test_everyone_gets_the_own_answer_within_the_budget(threads: int, batch: int) -> None:
    valve, wrong = Valve(), list[float]()
    valve.opened.set()
    lane = Lane(valve, Limits(threads=threads, batch=batch, waiting=100))

    def ask(number: int) -> None:
        for i in range(100):
            value = float(number * 1000 + i)
            try:
                answer = lane.run(tensor(value), 1, time.monotonic() + 10, priority=i % 3)
            except ModelError:
                wrong.append(value)
            else:
                wrong.extend([value] if answer["y"].tolist() != [value * 2] else [])

    workers = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert wrong == [] and sum(map(len, valve.batches)) == 1200
    assert valve.most <= threads


def test_the_engine_passes_deadline_and_limits_on() -> None:
    engine, valve = Engine(), Valve()
    engine.swap(Active(MANIFEST, valve, lambda *_: None, limits=Limits(threads=1, waiting=1)))
    with pytest.raises(DeadlineError):
        engine.predict({"picture": np.zeros((1, 2, 2), np.uint8)}, timeout_s=0)
    assert engine.loads()["fashion", MANIFEST.release].expired == 1
