"""The interpreter switches threads sooner while something computes, and no longer than that."""

import sys

import pytest

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
