import time
from dataclasses import replace

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry_shared import identity, wire
from skerry_shared.errors import SignatureError, TrustError
from skerry_shared.identity import Authority
from skerry_shared.sealing import PUBLIC_BYTES, IngestKey, Opener, Sealer
from skerry_shared.telemetry import Header, Sealed, Session

pytestmark = pytest.mark.arm64


NOW = identity.utc(time.time())
AUTHORITY = Authority.new("test", NOW)
INGEST = IngestKey.new()
KEY = identity.new_key()
CERTIFICATE = AUTHORITY.sign_request(identity.request("edge-1", KEY), "edge-1", NOW, 1)


def sealer(device: str = "edge-1", fleet: str = "test") -> Sealer:
    return Sealer(fleet, device, CERTIFICATE, KEY, INGEST.public_bytes())


def opener(of: Sealer, authority: x509.Certificate = AUTHORITY.certificate, key: IngestKey = INGEST) -> Opener:
    return Opener(of.opening, "test", authority, key)


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=5))
def test_what_is_sealed_opens_in_any_order_with_rising_counters(payloads: list[bytes]) -> None:
    mine = sealer()
    sealed = [mine.seal("windows", payload) for payload in payloads]
    there = opener(mine)
    opened = [there.open(batch) for batch in reversed(sealed)][::-1]
    assert [payload for _, payload in opened] == payloads
    assert [header.counter for header, _ in opened] == list(range(1, len(payloads) + 1))


def test_the_key_survives_storage() -> None:
    assert IngestKey(INGEST.private_bytes()).public_bytes() == INGEST.public_bytes()
    assert len(INGEST.public_bytes()) == PUBLIC_BYTES


@settings(max_examples=60)
@given(st.data())
def test_one_changed_bit_anywhere_is_noticed(data: st.DataObject) -> None:
    mine = sealer()
    batch = mine.seal("windows", b"some payload")
    field = data.draw(st.sampled_from(["header", "ciphertext"]))
    content = bytearray(getattr(batch, field))
    place = data.draw(st.integers(0, len(content) * 8 - 1))
    content[place // 8] ^= 1 << (place % 8)
    with pytest.raises(Exception) as caught:
        opener(mine).open(replace(batch, **{field: bytes(content)}))
    assert isinstance(caught.value, TrustError) or "not a Header" in str(caught.value)


def test_batches_of_another_session_do_not_open() -> None:
    first, second = sealer(), sealer()
    with pytest.raises(TrustError, match="another session"):
        opener(first).open(second.seal("windows", b""))
    batch = second.seal("windows", b"")
    moved = replace(wire.decode(Header, batch.header), session=first.session)
    with pytest.raises(TrustError, match="changed on its way"):
        opener(first).open(Sealed(wire.encode(moved), batch.ciphertext))


def test_only_a_device_of_the_fleet_opens_a_session_in_its_own_name() -> None:
    stranger = Authority.new("stranger", NOW).certificate
    with pytest.raises(SignatureError, match="not signed by a device of this fleet"):
        opener(sealer(), authority=stranger)
    with pytest.raises(SignatureError, match="'edge-2' in 'test', but signed by 'edge-1'"):
        opener(sealer(device="edge-2"))
    with pytest.raises(SignatureError, match="in 'other'"):
        opener(sealer(fleet="other"))


def test_another_ingest_key_cannot_read() -> None:
    with pytest.raises(TrustError, match="another ingest key"):
        opener(sealer(), key=IngestKey.new())


def test_the_session_key_is_bound_to_its_context() -> None:
    session = wire.decode(Session, sealer().opening.document)
    with pytest.raises(TrustError, match="does not open"):
        INGEST.unwrap(replace(session, device="edge-2"))
