from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_shared import windows
from skerry_shared.errors import InputError

pytestmark = pytest.mark.arm64

MANY = st.one_of(st.integers(0, 12), st.integers(0, 300), st.integers(0, windows.MOST // 64))
WINDOW = st.lists(st.lists(MANY, min_size=2, max_size=24).map(np.array), min_size=1, max_size=24)


@given(WINDOW)
def test_what_is_packed_is_unpacked(counts: list[Any]) -> None:
    sizes = list(map(len, counts))
    np.testing.assert_array_equal(windows.unpack(sizes, windows.pack(counts)), np.concatenate(counts))


@given(WINDOW, st.integers(1, 40))
def test_counts_of_another_baseline_are_refused_by_their_number(counts: list[Any], more: int) -> None:
    packed = windows.pack(counts)
    numbers = sum(map(len, counts)) + 1
    if len(packed) % (numbers + more):
        with pytest.raises(InputError, match=f"{len(packed)} bytes are not the {numbers + more} numbers"):
            windows.unpack([*map(len, counts), more], packed)


@given(st.lists(st.integers(2, 5), min_size=1, max_size=4), st.data())
def test_whatever_comes_is_counts_or_an_input_error(sizes: list[int], data: st.DataObject) -> None:
    width = data.draw(st.integers(0, 9))
    packed = data.draw(st.binary(min_size=width * (sum(sizes) + 1), max_size=width * (sum(sizes) + 1)))
    try:
        counts = windows.unpack(sizes, packed)
    except InputError:
        return
    assert len(counts) == sum(sizes) and (counts >= 0).all() and counts.sum() <= len(sizes) * windows.MOST


def test_a_byte_holds_a_count_and_what_a_total_tells_is_left_out() -> None:
    assert windows.pack([np.array([1, 7, 2]), np.array([3, 6])]) == bytes([10, 1, 3, 2, 0, 1])
    assert windows.pack([np.array([1, 300])]) == bytes([45, 1, 0]) + bytes([1, 0, 0])
