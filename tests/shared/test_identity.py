import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from skerry_shared import identity, signing
from skerry_shared.errors import SignatureError, UsageError
from skerry_shared.identity import Authority, Token
from skerry_shared.release import Assignment
from skerry_shared.testing.examples import MANIFEST

pytestmark = pytest.mark.arm64


NOW = identity.utc(time.time())
AUTHORITY = Authority.new("test", NOW)


def test_tokens_survive_being_typed() -> None:
    token = Token.new(AUTHORITY.certificate)
    assert Token.parse(f"  {token}\n") == token
    assert token.authority == identity.fingerprint(AUTHORITY.certificate)


@given(st.text())
def test_other_text_is_no_token(text: str) -> None:
    with pytest.raises(UsageError, match="skerry device add"):
        Token.parse(text)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a/b", "a" * 64, "ä", "a\n"])
def test_names_fit_topics_paths_and_certificates(name: str) -> None:
    with pytest.raises(UsageError, match="is not a name"):
        identity.check_name("device", name)


def test_a_request_must_be_for_the_tokens_name() -> None:
    request = identity.request("edge-2", identity.new_key())
    with pytest.raises(UsageError, match="asks for 'edge-2', the token is for 'edge-1'"):
        AUTHORITY.sign_request(request, "edge-1", NOW, 1)


def test_a_device_certificate_serves_under_no_name_but_its_own_and_server_certificates_name_hosts() -> None:
    key = identity.new_key()
    device = x509.load_pem_x509_certificate(AUTHORITY.sign_request(identity.request("e", key), "e", NOW, 1))
    server = x509.load_pem_x509_certificate(AUTHORITY.issue_server(key, ("localhost", "127.0.0.1"), NOW, 1))
    usage = device.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH, x509.oid.ExtendedKeyUsageOID.SERVER_AUTH}
    own = device.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(own) == [x509.DNSName("e.skerry.internal")]
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    for issued in (device, server):
        issued.verify_directly_issued_by(AUTHORITY.certificate)
        assert issued.not_valid_before_utc < NOW < issued.not_valid_after_utc


def assignment() -> Assignment:
    return Assignment("f", "d", 1, 2, 3, 4, "w", 5, "p", "s", 6, MANIFEST.target)


def test_a_signature_holds_for_its_key_its_content_and_its_purpose_only() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    signed = signing.sign(assignment(), key)
    assert signing.verify(Assignment, signed, key.public_key()) == assignment()
    unbound = type(signed)(signed.document, key.sign(signed.document))
    for wrong, trusted in (
        (signed, other),
        (type(signed)(signed.document + b"\0", signed.signature), key),
        (unbound, key),
    ):
        with pytest.raises(SignatureError, match="not signed by the trusted key"):
            signing.verify(Assignment, wrong, trusted.public_key())
    assert signing.load_public(signing.public_pem(key.public_key())) == key.public_key()
