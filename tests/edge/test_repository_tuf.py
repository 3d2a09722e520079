"""The TUF adapter against a real repository over real HTTPS: made with python-tuf, attacked by hand."""

import hashlib
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from securesystemslib.signer import CryptoSigner
from tuf.api import exceptions

from skerry_edge.adapters import tuf_updater
from skerry_edge.adapters.repository_tuf import Repository, mapped_errors
from skerry_shared import identity
from skerry_shared.errors import DigestError, ExpiredError, LinkError, ReplayError, SignatureError, TrustError

PATH, BUNDLE = "tiny/1/pc.bundle", b"a bundle" * 100
SHA256 = hashlib.sha256(BUNDLE).hexdigest()


@pytest.fixture
def repository(cloud: Any, publisher: Any, tmp_path: Path) -> Repository:
    (tmp_path / "authority.pem").write_bytes(cloud.authority_pem)
    (tmp_path / "root.json").write_bytes(publisher.root)
    publisher.publish(PATH, BUNDLE)
    files = (tmp_path / "authority.pem", tmp_path / "root.json", tmp_path / "cache")
    return Repository(f"{cloud.url}/tuf", *files, time.time)


def fetch(repository: Repository) -> bytes:
    return repository.fetch(PATH, SHA256, len(BUNDLE))


def test_fetches_what_both_sides_signed(repository: Repository) -> None:
    assert fetch(repository) == BUNDLE
    assert fetch(repository) == BUNDLE


def test_a_tampered_bundle(repository: Repository, publisher: Any) -> None:
    (publisher.targets / f"tiny/1/{SHA256}.pc.bundle").write_bytes(BUNDLE[:-1] + b"x")
    with pytest.raises(DigestError):
        fetch(repository)


def test_a_longer_bundle_is_not_read_to_its_end(repository: Repository, publisher: Any) -> None:
    (publisher.targets / f"tiny/1/{SHA256}.pc.bundle").write_bytes(BUNDLE * 2)
    with pytest.raises(DigestError):
        fetch(repository)


@pytest.mark.parametrize("role", ["online", "models-tiny"])
def test_a_strangers_key(repository: Repository, publisher: Any, role: str) -> None:
    publisher.keys[role] = CryptoSigner.generate_ed25519()
    publisher.publish(PATH, BUNDLE)
    with pytest.raises(SignatureError):
        fetch(repository)


def test_a_workloads_key_speaks_for_no_other_workload(repository: Repository, publisher: Any) -> None:
    publisher.publish("huge/1/pc.bundle", BUNDLE)
    with pytest.raises(TrustError, match="not signed by any key"):
        repository.fetch("huge/1/pc.bundle", SHA256, len(BUNDLE))


def test_director_and_repository_must_agree(repository: Repository) -> None:
    with pytest.raises(DigestError, match="disagree"):
        repository.fetch(PATH, "ab" * 32, len(BUNDLE))


def test_an_older_timestamp_is_a_replay(repository: Repository, publisher: Any) -> None:
    old = (publisher.metadata / "timestamp.json").read_bytes()
    publisher.publish(PATH, BUNDLE)
    assert fetch(repository) == BUNDLE
    (publisher.metadata / "timestamp.json").write_bytes(old)
    with pytest.raises(ReplayError):
        fetch(repository)


def test_expired_metadata(repository: Repository, publisher: Any) -> None:
    publisher.publish(PATH, BUNDLE, expires=publisher.expires - timedelta(days=2))
    with pytest.raises(ExpiredError):
        fetch(repository)


def test_a_clock_that_fell_back_does_not_revive_metadata(
    cloud: Any, publisher: Any, repository: Repository, tmp_path: Path
) -> None:
    files = (tmp_path / "authority.pem", tmp_path / "root.json", tmp_path / "cache")
    late = publisher.expires.timestamp() + 1
    with pytest.raises(ExpiredError):
        fetch(Repository(f"{cloud.url}/tuf", *files, lambda: late))


def test_a_body_cut_short_is_a_lost_link(repository: Repository, cloud: Any) -> None:
    assert fetch(repository) == BUNDLE
    cloud.cut = 100
    with pytest.raises(LinkError):
        fetch(repository)


def test_no_server_is_a_lost_link(repository: Repository, cloud: Any) -> None:
    cloud.close()
    with pytest.raises(LinkError):
        fetch(repository)


def test_another_authoritys_server_is_not_talked_to(
    repository: Repository, cloud: Any, publisher: Any, tmp_path: Path
) -> None:
    other = identity.Authority.new("desert", datetime.now(timezone.utc)).certificate
    (tmp_path / "authority.pem").write_bytes(other.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(LinkError, match="certificate"):
        fetch(repository)
    assert cloud.requests == []


def test_every_file_is_replaced_durably(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def note(path: Path, content: bytes) -> None:
        written.append(path.name)
        path.write_bytes(content)

    monkeypatch.setattr(tuf_updater, "write_durably", note)
    fetch(repository)
    kept = {path.name for path in (tmp_path / "cache").rglob("*.json") if not path.is_symlink()}
    assert (
        kept == set(written) == {"1.root.json", "timestamp.json", "snapshot.json", "targets.json", "models-tiny.json"}
    )


def _errors() -> list[type[Exception]]:
    kinds = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return [kind for kind in kinds if issubclass(kind, (exceptions.RepositoryError, exceptions.DownloadError))]


@pytest.mark.parametrize("kind", _errors())
def test_none_of_tufs_errors_escapes(kind: type[Exception]) -> None:
    error = kind("text", 500) if kind is exceptions.DownloadHTTPError else kind("text")
    with pytest.raises((TrustError, LinkError)), mapped_errors():
        raise error
