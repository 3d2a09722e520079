"""Which assignments count. Walks the rules of plan.accept one by one, then all of them with hypothesis."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from skerry_edge.update.plan import Device, accept, authenticate
from skerry_edge.update.state import Stored
from skerry_shared import signing, wire
from skerry_shared.errors import ExpiredError, InputError, ReplayError, SignatureError, TrustError, UsageError
from skerry_shared.release import Assignment, Target

pytestmark = pytest.mark.arm64


DEVICE = Device("harbour", "pump-7", "x86_64", ("onnxruntime",), 1 << 30)
TARGET = Target("generic-x86-64", "x86_64", "onnxruntime", "int8", 1 << 20)
GOOD = Assignment("harbour", "pump-7", 5, 1000, 2000, 1, "tiny", 2, "tiny/2/x.bundle", "ab" * 32, 9, TARGET)
KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def signed(assignment: Assignment, key: Ed25519PrivateKey = KEY) -> bytes:
    return wire.encode(signing.sign(assignment, key))


def taken(data: bytes, stored: Stored = Stored(), now: float = 1500) -> Stored | None:  # noqa: B008 - frozen
    return accept(authenticate(data, KEY.public_key(), DEVICE), stored, now)


def test_a_good_assignment_is_taken_and_remembered() -> None:
    stored = taken(signed(GOOD))
    assert stored is not None
    assert (stored.assignment, stored.counter, stored.floor) == (GOOD, 5, 1000)


def test_the_same_document_again_is_known() -> None:
    stored = taken(signed(GOOD))
    assert stored and taken(signed(GOOD), stored) is None


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (lambda: signed(GOOD, OTHER), SignatureError),
        (lambda: signed(replace(GOOD, fleet="desert")), TrustError),
        (lambda: signed(replace(GOOD, device="pump-8")), TrustError),
        (lambda: signed(replace(GOOD, mode="mirror")), TrustError),
        (lambda: signed(replace(GOOD, workload="../../etc")), UsageError),
        (lambda: signed(replace(GOOD, release=0)), TrustError),
        (lambda: signed(replace(GOOD, release=0, mode="shadow")), TrustError),
        (lambda: signed(replace(GOOD, mode="measure")), TrustError),
        (lambda: signed(replace(GOOD, expires=1500)), ExpiredError),
        (lambda: b"\xff not a message", InputError),
    ],
)
def test_what_is_refused(data: Callable[[], bytes], error: type[Exception]) -> None:
    with pytest.raises(error):
        taken(data())


def test_another_document_under_the_same_counter_is_a_replay() -> None:
    stored = taken(signed(GOOD))
    with pytest.raises(ReplayError, match="counter 5 of tiny is not above 5"):
        taken(signed(replace(GOOD, release=3)), stored or Stored())


def test_a_clock_that_fell_back_does_not_revive_what_expired() -> None:
    newer = taken(signed(replace(GOOD, issued=5000, expires=6000)), now=5500)
    assert newer and newer.floor == 5000
    with pytest.raises(ExpiredError):
        taken(signed(replace(GOOD, counter=6, expires=4000)), newer, now=0)


@given(
    counter=st.integers(1, 2**63), seen=st.integers(0, 2**63), expires=st.integers(0, 10**10),
    now=st.floats(0, 10**10), floor=st.integers(0, 10**10), right_key=st.booleans(), mine=st.booleans(),
)  # fmt: skip
def test_taken_only_if_every_rule_holds(
    counter: int, seen: int, expires: int, now: float, floor: int, right_key: bool, mine: bool
) -> None:
    assignment = replace(GOOD, counter=counter, expires=expires, device="pump-7" if mine else "pump-8")
    stored = Stored(counter=seen, floor=floor, document=b"another")
    holds = right_key and mine and counter > seen and max(now, floor, 1000) < expires
    try:
        after = taken(signed(assignment, KEY if right_key else OTHER), stored, now)
    except TrustError:
        assert not holds
    else:
        assert holds and after
        assert after.counter > stored.counter and after.floor >= stored.floor
