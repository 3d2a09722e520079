"""The fleet's keys, one file each with mode 0600 below ``keys/``.

``offline/`` holds what publishing a model does not need: TUF's root and targets keys. Move that folder to a safe place
after the first release of each workload; without it everything but adding a workload goes on.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skerry_shared import identity
from skerry_shared.errors import ConfigError
from skerry_shared.files import write_durably
from skerry_shared.identity import Authority
from skerry_shared.mqtt import CLOUD, worker
from skerry_shared.ports.carrier import TlsFiles
from skerry_shared.sealing import IngestKey

OFFLINE = ("root", "targets")
ONLINE = ("models", "snapshot", "timestamp", "director")
SERVER_DAYS = 397  # the longest lifetime that common TLS clients accept
RENEW = timedelta(days=30)  # a certificate with less than this to live is issued anew at start
PRIVATE = 0o600


@dataclass(frozen=True)
class Keys:
    """Where the keys are, and those that a running server needs."""

    folder: Path

    def signer(self, role: str) -> Ed25519PrivateKey:
        """The Ed25519 key of a TUF role or of the director. Raises ConfigError if it is not here."""
        path = self.folder / ("offline" if role in OFFLINE else ".") / f"{role}.pem"
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except FileNotFoundError:
            raise ConfigError(f"keys: this needs the {role} key, and {path} is not here") from None
        assert isinstance(key, Ed25519PrivateKey)
        return key

    @property
    def authority(self) -> Authority:
        """The fleet's certificate authority."""
        certificate = x509.load_pem_x509_certificate(self.tls.authority.read_bytes())
        return Authority(certificate, identity.load_key((self.folder / "authority.key").read_bytes()))

    @property
    def ingest(self) -> IngestKey:
        """What opens telemetry."""
        return IngestKey((self.folder / "ingest.key").read_bytes())

    @property
    def tls(self) -> TlsFiles:
        """The server's certificate and key."""
        return self._files("server")

    @property
    def broker_client(self) -> TlsFiles:
        """The cloud's own identity towards the MQTT broker."""
        return self._files("cloud")

    @property
    def operator(self) -> str:
        """The bearer token of the API."""
        return (self.folder / "operator.token").read_text().strip()

    def worker(self, number: int) -> TlsFiles:
        """The identity of a process that only ingests, towards the MQTT broker."""
        return self._files(f"ingest-{number}")

    def _files(self, name: str) -> TlsFiles:
        return TlsFiles(self.folder / "authority.pem", self.folder / f"{name}.pem", self.folder / f"{name}.key")


def create(folder: Path, fleet: str, hosts: tuple[str, ...], workers: int, now: float) -> Keys:
    """Make all keys of a new fleet in ``folder``."""
    (folder / "offline").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    for role in OFFLINE + ONLINE:
        path = folder / ("offline" if role in OFFLINE else ".") / f"{role}.pem"
        write_durably(path, _pem(Ed25519PrivateKey.generate()), PRIVATE)
    authority = Authority.new(fleet, identity.utc(now))
    certificate = authority.certificate.public_bytes(serialization.Encoding.PEM)
    write_durably(folder / "authority.pem", certificate)
    write_durably(folder / "authority.key", identity.private_pem(authority.key), PRIVATE)
    write_durably(folder / "ingest.key", IngestKey.new().private_bytes(), PRIVATE)
    write_durably(folder / "operator.token", os.urandom(20).hex().encode(), PRIVATE)
    keys = Keys(folder)
    _issue_own(keys, authority, hosts, workers, now)
    return keys


def renew_own(keys: Keys, hosts: tuple[str, ...], workers: int, now: float) -> bool:
    """Issue the cloud's own certificates anew where they are for other hosts, too few or soon run out.

    True if it did.
    """
    certificate = x509.load_pem_x509_certificate(keys.tls.certificate.read_bytes())
    fresh = certificate.not_valid_after_utc - identity.utc(now) > RENEW
    enough = all(keys.worker(number).certificate.exists() for number in range(1, workers + 1))
    if fresh and enough and identity.hosts_of(certificate) == set(hosts):
        return False
    _issue_own(keys, keys.authority, hosts, workers, now)
    return True


def _issue_own(keys: Keys, authority: Authority, hosts: tuple[str, ...], workers: int, now: float) -> None:
    server = identity.new_key()
    _write(keys.tls, server, authority.issue_server(server, hosts, identity.utc(now), SERVER_DAYS))
    clients = {CLOUD: keys.broker_client} | {worker(n): keys.worker(n) for n in range(1, workers + 1)}
    for name, files in clients.items():
        key = identity.new_key()
        _write(files, key, authority.sign_request(identity.request(name, key), name, identity.utc(now), SERVER_DAYS))


def _write(files: TlsFiles, key: EllipticCurvePrivateKey, certificate: bytes) -> None:
    write_durably(files.key, identity.private_pem(key), PRIVATE)
    write_durably(files.certificate, certificate)


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
