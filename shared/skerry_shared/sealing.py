"""Telemetry that only the fleet's ingest can read.

One random AES-256 key per boot, wrapped to the ingest key with HPKE (RFC 9180, base mode; KEM X-Wing = ML-KEM-768 +
X25519, draft-connolly-cfrg-xwing-kem) and signed once by the device. Then each batch is sealed with AES-256-GCM under a
counter nonce, its header as associated data. A fresh key per boot means that no nonce has to survive a power cut.
"""

import hashlib
import os

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from skerry_shared import wire
from skerry_shared.errors import SignatureError, TrustError
from skerry_shared.identity import verify_signature
from skerry_shared.signing import bound
from skerry_shared.telemetry import Header, Sealed, Session, SignedSession

SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
KEY_BYTES = 96  # ML-KEM-768 seed (64) and X25519 private key (32)
PUBLIC_BYTES = 1216  # ML-KEM-768 public key (1184) and X25519 public key (32): X-Wing's order


class IngestKey:
    """The fleet's private key for telemetry: ML-KEM-768 and X25519 together."""

    def __init__(self, raw: bytes) -> None:
        """``raw``: ``KEY_BYTES`` secret bytes, see ``new``."""
        self._raw = raw
        self._key = MLKEM768X25519PrivateKey(
            MLKEM768PrivateKey.from_seed_bytes(raw[:64]), X25519PrivateKey.from_private_bytes(raw[64:])
        )

    @classmethod
    def new(cls) -> "IngestKey":
        """A fresh key."""
        return cls(os.urandom(KEY_BYTES))

    def private_bytes(self) -> bytes:
        """The secret to store, mode 0600."""
        return self._raw

    def public_bytes(self) -> bytes:
        """What devices seal to: ``PUBLIC_BYTES`` bytes."""
        kem = MLKEM768PrivateKey.from_seed_bytes(self._raw[:64]).public_key()
        curve = X25519PrivateKey.from_private_bytes(self._raw[64:]).public_key()
        return kem.public_bytes_raw() + curve.public_bytes_raw()

    def unwrap(self, session: Session) -> bytes:
        """The session's AES key. Raises TrustError."""
        if session.ingest_key != fingerprint(self.public_bytes()):
            raise TrustError(f"session: sealed to another ingest key, {session.ingest_key[:12]}")
        try:
            return SUITE.decrypt(session.wrapped, self._key, info=_info(session.fleet, session.device, session.session))
        except (InvalidTag, ValueError):
            raise TrustError("session: its key does not open with the fleet's ingest key") from None


class Sealer:
    """The device's side of one session. ``opening`` must reach the cloud before the first batch does."""

    def __init__(
        self, fleet: str, device: str, certificate: bytes, key: ec.EllipticCurvePrivateKey, ingest_public: bytes
    ) -> None:
        """``certificate`` is PEM, ``key`` its private key, ``ingest_public`` from ``IngestKey.public_bytes``."""
        self._device, self.session, self.counter = device, os.urandom(16), 0
        secret = AESGCM.generate_key(256)
        self._aead = AESGCM(secret)
        public = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(ingest_public[:1184]),
            X25519PublicKey.from_public_bytes(ingest_public[1184:]),
        )
        wrapped = SUITE.encrypt(secret, public, info=_info(fleet, device, self.session))
        document = wire.encode(Session(fleet, device, self.session, fingerprint(ingest_public), wrapped))
        signature = key.sign(bound("session", document), ec.ECDSA(hashes.SHA256()))
        self.opening = SignedSession(document, signature, certificate)

    def seal(self, table: str, payload: bytes) -> Sealed:
        """Seal one packed batch under the next counter."""
        self.counter += 1
        header = wire.encode(Header(self._device, self.session, self.counter, table))
        return Sealed(header, self._aead.encrypt(_nonce(self.counter), payload, header))


class Opener:
    """The cloud's side of one session: opens batches in any order and leaves order and replay to the caller."""

    def __init__(self, signed: SignedSession, fleet: str, authority: x509.Certificate, key: IngestKey) -> None:
        """Raises TrustError unless a device of ``fleet`` signed the session and ``key`` opens it."""
        name = verify_signature(signed.certificate, authority, signed.signature, bound("session", signed.document))
        opened = wire.decode(Session, signed.document)
        if (opened.fleet, opened.device) != (fleet, name):
            raise SignatureError(f"session: of {opened.device!r} in {opened.fleet!r}, but signed by {name!r}")
        self.device, self.session = opened.device, opened.session
        self._aead = AESGCM(key.unwrap(opened))

    def open(self, sealed: Sealed) -> tuple[Header, bytes]:
        """The batch's header and packed payload. Raises TrustError if it is not of this session or was changed."""
        header = wire.decode(Header, sealed.header)
        if (header.device, header.session) != (self.device, self.session):
            raise TrustError("batch: belongs to another session")
        try:
            return header, self._aead.decrypt(_nonce(header.counter), sealed.ciphertext, sealed.header)
        except InvalidTag:
            raise TrustError(f"batch {header.counter}: changed on its way, or not sealed by this session") from None


def fingerprint(public: bytes) -> str:
    """SHA-256 of an ingest public key, hex."""
    return hashlib.sha256(public).hexdigest()


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


def _info(fleet: str, device: str, session: bytes) -> bytes:
    return bound("session key", "\0".join((fleet, device, session.hex())).encode())
