import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_shared import telemetry
from skerry_shared.errors import InputError


@given(st.binary(max_size=5000))
def test_what_is_packed_is_unpacked(stream: bytes) -> None:
    assert telemetry.unpack(telemetry.pack(stream)) == stream


@given(st.binary(min_size=1, max_size=500), st.data())
def test_a_frame_that_is_cut_off_is_refused(stream: bytes, data: st.DataObject) -> None:
    packed = telemetry.pack(stream)
    with pytest.raises(InputError, match=r"^batch: "):
        telemetry.unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


def test_what_would_be_too_large_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(InputError, match=r"not within 0 to"):
        telemetry.unpack(telemetry.pack(bytes(telemetry.MAX_BATCH + 1)))
