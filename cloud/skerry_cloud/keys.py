"""The fleet's keys, one file each with mode 0600 below ``keys/``.

``offline/`` holds what publishing a model does not need: TUF's root and targets keys. Move that folder to a safe place
after the first release of each workload; without it everything but adding a workload goes on.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skerry_shared import identity
from skerry_shared.errors import ConfigError
from skerry_shared.files import write_durably
from skerry_shared.identity import Authority
from skerry_shared.ports.carrier import TlsFiles
from skerry_shared.sealing import IngestKey

OFFLINE = ("root", "targets")
ONLINE = ("models", "snapshot", "timestamp", "director")
SERVER_DAYS = 397  # the longest lifetime that common TLS clients accept
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

    def _files(self, name: str) -> TlsFiles:
        return TlsFiles(self.folder / "authority.pem", self.folder / f"{name}.pem", self.folder / f"{name}.key")


def create(folder: Path, fleet: str, hosts: tuple[str, ...], now: float) -> Keys:
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
    _issue_own(keys, authority, hosts, now)
    return keys


def _issue_own(keys: Keys, authority: Authority, hosts: tuple[str, ...], now: float) -> None:
    for files in (keys.tls, keys.broker_client):
        write_durably(files.key, identity.private_pem(identity.new_key()), PRIVATE)
    server_key = identity.load_key(keys.tls.key.read_bytes())
    server = authority.issue_server(server_key, hosts, identity.utc(now), SERVER_DAYS)
    write_durably(keys.tls.certificate, server)
    request = identity.request("cloud", identity.load_key(keys.broker_client.key.read_bytes()))
    own = authority.sign_request(request, "cloud", identity.utc(now), SERVER_DAYS)
    write_durably(keys.broker_client.certificate, own)


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
