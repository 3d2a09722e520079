"""The threads that answer gRPC's calls."""

import gc
import logging
import threading
import weakref
from collections import Counter

import pytest

from skerry_edge.serve.pool import Call, Pool, Waker, _Crew

PATIENCE_S = 10


def test_answers_calls_at_the_same_time_up_to_the_number_of_threads() -> None:
    before, pool = set(threading.enumerate()), Pool(3)
    meeting, go, fourth = threading.Barrier(4, timeout=PATIENCE_S), threading.Event(), threading.Event()

    def hold() -> None:
        meeting.wait()
        go.wait(PATIENCE_S)

    for _ in range(3):
        pool.submit(hold)
    pool.submit(fourth.set)
    meeting.wait()  # all three are in there
    assert len(set(threading.enumerate()) - before) == 3 and not fourth.is_set()
    go.set()
    assert fourth.wait(PATIENCE_S)


def test_tells_of_the_end_whether_asked_before_or_after_it() -> None:
    pool, go, ended = Pool(1), threading.Event(), threading.Event()
    told = list[Call]()
    call = pool.submit(go.wait, timeout=PATIENCE_S)
    call.add_done_callback(told.append)
    call.add_done_callback(lambda _: ended.set())
    assert not told
    go.set()
    assert ended.wait(PATIENCE_S)
    call.add_done_callback(told.append)
    assert told == [call, call]


def test_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    pool, ended, answered = Pool(1), threading.Event(), threading.Event()

    def fail() -> None:
        raise SystemExit("no")

    with caplog.at_level(logging.ERROR):
        pool.submit(fail).add_done_callback(lambda _: ended.set())
        pool.submit(answered.set)
        assert ended.wait(PATIENCE_S) and answered.wait(PATIENCE_S)
    assert "no" in caplog.text


def test_the_thread_that_was_idle_last_goes_first() -> None:
    pool, meeting, used = Pool(4), threading.Barrier(5, timeout=PATIENCE_S), Counter[int]()
    for _ in range(4):
        pool.submit(meeting.wait)
    meeting.wait()
    for _ in range(400):
        ended = threading.Event()
        pool.submit(lambda: used.update([threading.get_ident()])).add_done_callback(lambda _: ended.set())  # noqa: B023
        assert ended.wait(PATIENCE_S)
    two = sum(count for _, count in used.most_common(2))  # one may still be on its way to rest when the next call comes
    assert two > 300


def test_ends_in_whatever_thread_the_garbage_is_collected() -> None:
    crew = _Crew()

    class Idle(list[Waker]):
        """A list during whose changes garbage is collected, and the pool with it."""

        def append(self, waker: Waker) -> None:
            super().append(waker)
            crew.dismiss()

    crew._idle = Idle()
    thread = threading.Thread(target=crew.work, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_what_waits_when_it_ends_is_answered() -> None:
    pool, go, answered = Pool(1), threading.Event(), threading.Semaphore(0)
    pool.submit(go.wait, timeout=PATIENCE_S)
    for _ in range(10):
        pool.submit(answered.release)
    del pool
    gc.collect()
    go.set()
    assert all(answered.acquire(timeout=PATIENCE_S) for _ in range(10))


def test_its_threads_end_with_it_and_keep_nothing_of_a_call() -> None:
    class Subject:
        """What a call is about."""

    before = set(threading.enumerate())
    pool, subject, ended = Pool(4), Subject(), threading.Event()
    gone = threading.Event()
    weakref.finalize(subject, gone.set)
    pool.submit(lambda _: None, subject).add_done_callback(lambda _: ended.set())
    assert ended.wait(PATIENCE_S)
    del subject
    assert gone.wait(PATIENCE_S)
    threads = set(threading.enumerate()) - before
    del pool
    gc.collect()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
