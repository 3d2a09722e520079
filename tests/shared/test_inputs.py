import doctest
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skerry_shared import inputs
from skerry_shared.errors import InputError
from skerry_shared.inputs import ENCODINGS, PRECISION, decoded, lossy
from skerry_shared.release import TensorSpec


def test_the_example_holds() -> None:
    assert doctest.testmod(inputs).failed == 0


@given(st.sampled_from(["float32", "float64"]).flatmap(lambda dtype: arrays(dtype, (3, 2))))
def test_no_value_loses_more_than_it_may(values: np.ndarray[Any, Any]) -> None:
    raw, encoding = lossy(values.tobytes(), values.dtype.name)
    assert len(raw) == values.size * np.dtype(encoding).itemsize
    found = decoded(raw, encoding, TensorSpec("x", values.dtype.name, (-1, 3, 2)))
    assert found.dtype == values.dtype and found.shape == (1, 3, 2)
    np.testing.assert_allclose(found[0], values, rtol=PRECISION * 1.001, atol=0)


@pytest.mark.parametrize("dtype", ENCODINGS)
def test_what_is_no_wide_float_stays_exact(dtype: str) -> None:
    raw = np.arange(4).astype(dtype).tobytes()
    short, encoding = lossy(raw, dtype)
    assert (len(short) == len(raw)) == (encoding == dtype) == (dtype not in inputs.WIDE)
    spec = TensorSpec("x", dtype, (-1, 4))
    np.testing.assert_array_equal(decoded(short, encoding, spec)[0], np.frombuffer(raw, dtype))


def test_a_value_that_float16_cannot_hold_keeps_its_record_exact() -> None:
    for value in (1e6, 1e-7, 1e38):
        raw = np.array([1.0, value], np.float32).tobytes()
        assert lossy(raw, "float32") == (raw, "float32")


@pytest.mark.parametrize(
    ("raw", "encoding", "said"),
    [
        (b"1234", "int8", "which is no float32"),
        (b"1234", "float16", r"no float16 \[3\]"),
        (b"123", "float32", "no float32"),
        (b"", "O", "which is no float32"),
    ],
)
def test_other_bytes_are_refused(raw: bytes, encoding: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        decoded(raw, encoding, TensorSpec("x", "float32", (-1, 3)))
