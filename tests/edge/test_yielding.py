"""The interpreter switches threads sooner while something computes, and no longer than that."""

import sys
import threading

import pytest

from skerry_edge.update.plan import Order
from skerry_edge.update.worker import Driver
from skerry_edge.yielding import SWITCH_S, yielding


def test_holds_until_the_last_one_has_ended() -> None:
    usual = sys.getswitchinterval()
    first, second = yielding(), yielding()
    first.__enter__()
    assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(usual)


def test_ends_with_an_error() -> None:
    usual = sys.getswitchinterval()
    with pytest.raises(ValueError), yielding():
        raise ValueError
    assert sys.getswitchinterval() == pytest.approx(usual)


def test_a_step_of_an_update_yields() -> None:
    usual, seen, ended, errors = sys.getswitchinterval(), list[float](), threading.Event(), list[Exception]()

    class Flow:
        """One step, which looks at the interval."""

        def start(self) -> None: ...
        def receive(self, order: Order) -> None: ...

        def advance(self) -> float | None:
            seen.append(sys.getswitchinterval())
            ended.set()
            return None

    driver = Driver("test", Flow(), lambda: None, errors.append)
    driver.start()
    assert ended.wait(10)
    driver.close()
    driver.join()
    assert seen[0] == pytest.approx(SWITCH_S) and sys.getswitchinterval() == pytest.approx(usual)
    assert not errors
