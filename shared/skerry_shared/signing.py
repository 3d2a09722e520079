"""Ed25519 signatures (RFC 8032) of serialised documents, separated by purpose.

What is signed is ``skerry/<purpose>\\0`` + document, so that a signature made for one purpose is void for another.
"""

from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from skerry_shared import wire
from skerry_shared.errors import ConfigError, SignatureError
from skerry_shared.release import Assignment, Signed

T = TypeVar("T")

PURPOSES: dict[type, str] = {Assignment: "assignment"}


def bound(purpose: str, document: bytes) -> bytes:
    """The bytes that are really signed."""
    return f"skerry/{purpose}".encode() + b"\0" + document


def sign(value: object, key: Ed25519PrivateKey) -> Signed:
    """Serialise and sign a document of a type in ``PURPOSES``."""
    document = wire.encode(value)
    return Signed(document, key.sign(bound(PURPOSES[type(value)], document)))


def verify(cls: type[T], signed: Signed, key: Ed25519PublicKey) -> T:
    """The signed document. Raises SignatureError unless ``key`` signed it as a ``cls``."""
    try:
        key.verify(signed.signature, bound(PURPOSES[cls], signed.document))
    except InvalidSignature:
        raise SignatureError(f"{PURPOSES[cls]}: not signed by the trusted key") from None
    return wire.decode(cls, signed.document)


def public_pem(key: Ed25519PublicKey) -> bytes:
    """The key as PEM (SubjectPublicKeyInfo)."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_public(pem: bytes) -> Ed25519PublicKey:
    """Undo ``public_pem``. Raises ConfigError if it is no Ed25519 public key."""
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError as error:
        raise ConfigError(f"not a public key: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError("not an Ed25519 public key")
    return key
