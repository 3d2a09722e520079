import typing
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_shared import wire
from skerry_shared.errors import InputError
from skerry_shared.release import Assignment, Manifest, Signed
from skerry_shared.telemetry import Ack, Down, Sealed, Up
from skerry_shared.testing.examples import MANIFEST

pytestmark = pytest.mark.arm64


def test_every_message_has_the_fields_of_its_dataclass() -> None:
    for cls, message in wire.MESSAGES.items():
        assert {field.name for field in fields(cls)} == set(message.DESCRIPTOR.fields_by_name), cls


def test_manifests_survive_both_encodings() -> None:
    assert wire.decode(Manifest, wire.encode(MANIFEST)) == MANIFEST
    assert wire.from_json(Manifest, wire.to_json(MANIFEST)) == MANIFEST


numbers = st.integers(0, 2**60)
assignments = st.builds(
    Assignment, counter=st.integers(0, 2**64 - 1), issued=numbers, expires=numbers, rollout=numbers, release=numbers,
    length=numbers, target=st.just(MANIFEST.target),
)  # fmt: skip


@given(assignments)
def test_assignments_survive(assignment: Assignment) -> None:
    assert wire.decode(Assignment, wire.encode(assignment)) == assignment


def test_absent_is_none_and_empty_is_not() -> None:
    assert wire.decode(Up, wire.encode(Up(batch=Sealed(b"", b"")))) == Up(session=None, batch=Sealed(b"", b""))
    assert wire.decode(Down, wire.encode(Down(desired=b""))) == Down(ack=None, desired=b"")
    assert wire.decode(Down, wire.encode(Down(ack=Ack(b"s", 0)))).ack == Ack(b"s", 0)


@given(st.binary(max_size=60), st.sampled_from([Up, Down, Manifest, Signed]))
def test_any_bytes_decode_or_raise_input_error(data: bytes, cls: type[typing.Any]) -> None:
    try:
        assert isinstance(wire.decode(cls, data), cls)
    except InputError as error:
        assert str(error).startswith(f"not a {cls.__name__}")


def test_json_with_unknown_fields_is_refused() -> None:
    with pytest.raises(InputError, match="not a Manifest"):
        wire.from_json(Manifest, '{"wrokload": "x"}')
