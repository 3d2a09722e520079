import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from skerry_edge.config import Folders
from skerry_edge.renewal import due, renew
from skerry_shared import identity
from skerry_shared.errors import LinkError, SkerryError, TrustError
from skerry_shared.identity import Authority

NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)
AUTHORITY = Authority.new("harbour", NOW)
CERTIFICATE = AUTHORITY.sign_request(identity.request("pump-7", identity.new_key()), "pump-7", NOW, 90)


@given(st.integers(-1000 * 24, 1000 * 24))
def test_it_is_due_in_the_last_third_of_its_life_and_after(hours: int) -> None:
    assert due(CERTIFICATE, NOW + timedelta(hours=hours)) == (hours >= 60 * 24)  # it is backdated by an hour


@pytest.fixture
def folders(cloud: Any, tmp_path: Path) -> Folders:
    folders, key = Folders(tmp_path / "device"), identity.new_key()
    folders.identity.mkdir(parents=True)
    folders.key.write_bytes(identity.private_pem(key))
    folders.authority.write_bytes(cloud.authority_pem)
    csr = identity.request("pump-7", key)
    folders.certificate.write_bytes(cloud.authority.sign_request(csr, "pump-7", datetime.now(timezone.utc), 1))
    return folders


def answer(authority: Authority, key: Any = None, name: str = "pump-7") -> Any:
    def sign(body: bytes) -> tuple[int, bytes]:
        csr = identity.request(name, key).decode() if key else json.loads(body)["csr"]
        certificate = authority.sign_request(csr.encode(), name, datetime.now(timezone.utc), 30)
        return 200, json.dumps({"certificate": certificate.decode()}).encode()

    return sign


def test_the_next_certificate_is_for_the_same_key(cloud: Any, folders: Folders) -> None:
    cloud.routes["POST", "/v1/renew"] = answer(cloud.authority)
    until = renew(cloud.url, folders)
    found = x509.load_pem_x509_certificate(folders.certificate.read_bytes())
    assert found.not_valid_after_utc == until > datetime.now(timezone.utc) + timedelta(days=29)


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (answer(AUTHORITY), TrustError, "no certificate of this fleet"),
        (lambda _: (200, b'{"certificate": "nonsense"}'), TrustError, "no certificate of this fleet"),
        (lambda _: (403, b'{"error": "revoked"}'), TrustError, "refuses to renew the certificate: revoked"),
        (lambda _: (502, b"<html>"), LinkError, "answers 502 without a reason"),
        (lambda _: (200, b"[]"), LinkError, "answers 200 without a reason"),
    ],
)
def test_whatever_else_comes_changes_nothing(
    cloud: Any, folders: Folders, reply: Any, error: type[SkerryError], message: str
) -> None:
    before = folders.certificate.read_bytes()
    cloud.routes["POST", "/v1/renew"] = reply
    with pytest.raises(error, match=message):
        renew(cloud.url, folders)
    assert folders.certificate.read_bytes() == before


def test_a_certificate_for_another_key_is_refused(cloud: Any, folders: Folders) -> None:
    cloud.routes["POST", "/v1/renew"] = answer(cloud.authority, identity.new_key())
    with pytest.raises(TrustError, match="not for this device's key and name"):
        renew(cloud.url, folders)
