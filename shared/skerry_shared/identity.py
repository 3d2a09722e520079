"""Who is who: P-256 keys, certificates of the fleet's own authority, one-time enrolment tokens.

A device makes its key and never shows it; the fleet's authority signs a short-lived certificate whose common name is
the device's name. P-256, because TLS stacks and ``cryptography.x509.verification`` refuse Ed25519 certificates.
"""

import hashlib
import ipaddress
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from skerry_shared.errors import SignatureError, UsageError

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # a DNS label: fits a topic, a path and a certificate
BACKDATED = timedelta(hours=1)  # devices whose clocks are a little behind must accept a fresh certificate
SHA256 = hashes.SHA256()


def check_name(kind: str, name: str) -> str:
    """``name`` if it may name a fleet, device or workload. Raises UsageError."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{kind}: {name!r} is not a name: use a-z, 0-9 and '-', at most 63 characters")
    return name


@dataclass(frozen=True)
class Token:
    """A one-time enrolment token: a secret, and which authority to trust, so that first contact is safe too."""

    secret: str
    authority: str  # SHA-256 of the authority's certificate, hex

    @classmethod
    def new(cls, authority: x509.Certificate) -> "Token":
        """A fresh token of 160 random bits."""
        return cls(secrets.token_hex(20), fingerprint(authority))

    @classmethod
    def parse(cls, text: str) -> "Token":
        """Read what ``str(token)`` wrote. Raises UsageError."""
        match = re.fullmatch(r"skerry-([0-9a-f]{40})-([0-9a-f]{64})", text.strip())
        if not match:
            raise UsageError("token: not an enrolment token; make one with `skerry device add NAME`")
        return cls(*match.groups())

    def __str__(self) -> str:
        return f"skerry-{self.secret}-{self.authority}"


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, hex."""
    return certificate.fingerprint(SHA256).hex()


def host_of(device: str) -> str:
    """The host name under which a device may serve; no device can be named so that it is another machine's."""
    return f"{device}.skerry.internal"


def hash_secret(secret: str) -> str:
    """What the cloud stores instead of a token's secret. The secret has 160 random bits, so a plain hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS #8 PEM. Write it with mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Undo ``private_pem``."""
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError("not a P-256 private key")
    return key


def request(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate signing request (PKCS #10) in PEM for the device ``name``."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(name))
    return builder.sign(key, SHA256).public_bytes(serialization.Encoding.PEM)


def load_request(pem: bytes) -> x509.CertificateSigningRequest:
    """Undo ``request``. Raises UsageError unless it names somebody and its signature proves possession of the key."""
    try:
        asked = x509.load_pem_x509_csr(pem)
        common_name(asked)
        proves = asked.is_signature_valid
    except (ValueError, IndexError) as error:
        raise UsageError(f"csr: not a certificate signing request: {error}") from None
    if not proves:
        raise UsageError("csr: its signature does not prove possession of the key")
    return asked


def common_name(certificate: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """The subject's common name."""
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def key_fingerprint(proof: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """SHA-256 of the public key (DER, SubjectPublicKeyInfo), hex: the same in each certificate for this key."""
    public = proof.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(public).hexdigest()


def hosts_of(certificate: x509.Certificate) -> set[str]:
    """Names and addresses that a server certificate is for."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = names.get_values_for_type(x509.IPAddress)
    return {*names.get_values_for_type(x509.DNSName), *map(str, addresses)}


@dataclass(frozen=True)
class Authority:
    """A certificate authority: the fleet's own."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls, fleet: str, now: datetime) -> "Authority":
        """A self-signed authority for ten years."""
        key, subject = new_key(), _subject(f"{fleet} authority")
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = _builder(subject, subject, key.public_key(), now, timedelta(days=3650))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        return cls(builder.sign(key, SHA256), key)

    def sign_request(self, pem: bytes, device: str, now: datetime, days: int) -> bytes:
        """A device's certificate in PEM for the request's key. Raises UsageError unless the request names ``device``.

        It is for both ends of TLS, as a server under ``host_of(device)`` only.
        """
        asked = load_request(pem)
        if common_name(asked) != device:
            raise UsageError(f"csr: asks for {common_name(asked)!r}, the token is for {device!r}")
        key = asked.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise UsageError("csr: its key is not on curve P-256")
        usages, names = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH], [_host(host_of(device))]
        return self._issue(_subject(device), key, now, days, usages, names)

    def issue_server(self, key: ec.EllipticCurvePrivateKey, hosts: tuple[str, ...], now: datetime, days: int) -> bytes:
        """A server certificate in PEM for these host names and IP addresses."""
        names = [_host(host) for host in hosts]
        return self._issue(_subject(hosts[0]), key.public_key(), now, days, [ExtendedKeyUsageOID.SERVER_AUTH], names)

    def _issue(
        self, subject: x509.Name, public: object, now: datetime, days: int,
        usages: list[x509.ObjectIdentifier], names: list[x509.GeneralName],
    ) -> bytes:  # fmt: skip
        builder = _builder(subject, self.certificate.subject, public, now, timedelta(days=days))
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, SHA256).public_bytes(serialization.Encoding.PEM)


def verify_signature(pem: bytes, authority: x509.Certificate, signature: bytes, data: bytes) -> str:
    """The common name of the certificate whose key signed ``data`` (ECDSA with SHA-256).

    Validity in time is the link's business (mTLS): a session may be delivered long after its certificate ran out.
    Raises SignatureError if the authority did not issue the certificate or the signature is wrong.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(authority)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise SignatureError("certificate: not a P-256 key")
        key.verify(signature, data, ec.ECDSA(SHA256))
    except (InvalidSignature, ValueError, TypeError) as error:
        raise SignatureError(f"not signed by a device of this fleet: {error}".rstrip(": ")) from None
    return common_name(certificate)


def utc(seconds: float) -> datetime:
    """Unix seconds as a datetime in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: object, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.public_key(public).serial_number(x509.random_serial_number())  # type: ignore[arg-type]
    return builder.not_valid_before(now - BACKDATED).not_valid_after(now + lifetime)
