"""Enrolment: from a one-time token to an identity that the fleet trusts, and a folder that is a whole device.

1. Fetch the authority's certificate over an unverified connection and hold it against the token's fingerprint.
2. Over a connection that trusts this authority alone, send the token's secret and a request for a new key.
3. Write what came back, agent.toml last. The key is made here and never leaves.

Whatever fails, nothing is left behind, and a token that was refused stays secret to all but the true authority.
"""

import base64
import binascii
import contextlib
import json
import shutil
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from urllib3.exceptions import InsecureRequestWarning

from skerry_edge.config import Folders
from skerry_edge.https import request, trusting
from skerry_edge.observe.redact import checked_key
from skerry_shared import config, identity
from skerry_shared.errors import LinkError, StateError, TrustError, UsageError
from skerry_shared.files import sync_folder, write_durably
from skerry_shared.sealing import PUBLIC_BYTES
from skerry_shared.signing import load_public


@dataclass(frozen=True)
class Enrolment:
    """The cloud's reply: who the device is, whom it trusts, where the cloud is."""

    device: str
    fleet: str
    certificate: str  # PEM
    director: str  # PEM
    ingest: str  # base64
    root: str  # text of the TUF root
    repository: str  # URL
    gateway: str  # "host:port"
    mqtt: str | None  # "host:port"
    profile: str  # as the operator announced the device


def enroll(
    folder: Path, url: str, token: str, name: str, profile: str = "", pseudonyms: Path | None = None
) -> Enrolment:
    """Make ``folder`` the device ``name``; ``profile`` is the announced one unless given, and must equal it.

    ``pseudonyms`` is a file with the key of pseudonyms that devices share; the cloud never sees it. Raises UsageError,
    StateError, TrustError or LinkError.
    """
    identity.check_name("device", name)
    shared = checked_key(pseudonyms) if pseudonyms else b""
    pinned, folders = identity.Token.parse(token), Folders(folder)
    if folders.config.exists():
        raise StateError(f"{folder}: already enrolled; use another folder, or remove this one")
    authority = fetch_authority(url, pinned)
    key = identity.new_key()
    csr = identity.request(name, key).decode()
    body = {"secret": pinned.secret, "csr": csr, "name": name, "profile": profile}
    with _room(folder):
        reply = _ask(url, authority, body)
        _check(reply, name, key)
        _install(folders, reply, url, authority, key, shared)
    return reply


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[None]:
    """A folder that can be written to, before the token is spent on it; gone again if enrolment fails."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".probe").touch()
        (folder / ".probe").unlink()
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written to: {error.strerror}; name another folder") from None
    try:
        yield
    except BaseException:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def fetch_authority(url: str, token: identity.Token) -> bytes:
    """The authority's certificate in PEM, proven by the token's fingerprint. Raises TrustError or LinkError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the fingerprint is the proof, not the link
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureRequestWarning)
        status, pem = request(context, "GET", f"{url.rstrip('/')}/v1/authority")
    if status != 200:
        raise LinkError(f"{url}: answers {status}; is it the address of a skerry-cloud?")
    try:
        found = identity.fingerprint(x509.load_pem_x509_certificate(pem))
    except ValueError as error:
        raise TrustError(f"{url}: sent no certificate: {error}") from None
    if found != token.authority:
        raise TrustError(f"{url}: its authority is {found[:16]}, the token trusts {token.authority[:16]}; wrong cloud?")
    return pem


def _ask(url: str, authority: bytes, body: dict[str, str]) -> Enrolment:
    status, reply = request(trusting(authority), "POST", f"{url.rstrip('/')}/v1/enroll", json.dumps(body).encode())
    try:
        document = json.loads(reply)
        if status == 200:
            known = {field.name: document[field.name] for field in fields(Enrolment)}  # a newer cloud may say more
            return config.decode(Enrolment, known, "enrolment reply")
        reason = str(document["error"])
    except (ValueError, KeyError, TypeError):
        raise LinkError(f"{url}: answers {status} without a reason; is it a skerry-cloud?") from None
    if status == 403:  # the token
        raise TrustError(f"enrolment refused: {reason}")
    raise UsageError(f"enrolment refused: {reason}")


def _check(reply: Enrolment, name: str, key: EllipticCurvePrivateKey) -> None:
    try:
        certificate = x509.load_pem_x509_certificate(reply.certificate.encode())
        ingest = base64.b64decode(reply.ingest, validate=True)
    except (ValueError, binascii.Error) as error:
        raise TrustError(f"enrolment reply: {error}") from None
    load_public(reply.director.encode())
    if certificate.public_key() != key.public_key() or {reply.device, identity.common_name(certificate)} != {name}:
        raise TrustError("enrolment reply: the certificate is not for this device's key and name")
    if len(ingest) != PUBLIC_BYTES:
        raise TrustError(f"enrolment reply: the ingest key has {len(ingest)} bytes, not {PUBLIC_BYTES}")


def _install(
    folders: Folders, reply: Enrolment, url: str, authority: bytes, key: EllipticCurvePrivateKey, pseudonyms: bytes
) -> None:
    try:
        folders.identity.mkdir(parents=True, mode=0o700, exist_ok=True)
        write_durably(folders.key, identity.private_pem(key), mode=0o600)
        if pseudonyms:
            write_durably(folders.pseudonyms, pseudonyms, mode=0o600)
        write_durably(folders.authority, authority)
        write_durably(folders.certificate, reply.certificate.encode())
        write_durably(folders.director, reply.director.encode())
        write_durably(folders.ingest, base64.b64decode(reply.ingest))
        write_durably(folders.trust_root, reply.root.encode())
        sync_folder(folders.root)
        write_durably(folders.config, _toml(reply, url).encode())
    except BaseException:
        shutil.rmtree(folders.identity, ignore_errors=True)
        raise


def _toml(reply: Enrolment, url: str) -> str:
    transports = ["mqtt", "grpc"] if reply.mqtt else ["grpc"]
    values = {"fleet": reply.fleet, "device": reply.device, "profile": reply.profile, "repository": reply.repository}
    values |= {"gateway": reply.gateway, "mqtt": reply.mqtt or "", "cloud": url}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]  # a JSON string is a TOML string too
    return "\n".join([*lines, f"transports = {json.dumps(transports)}  # in order of preference", ""])
