import base64
import json
import stat
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skerry_edge.config import Folders, load
from skerry_edge.enroll import _room, enroll
from skerry_shared import identity, signing
from skerry_shared.errors import ConfigError, LinkError, SkerryError, StateError, TrustError, UsageError
from skerry_shared.sealing import IngestKey


@pytest.fixture
def token(cloud: Any) -> str:
    """Of a cloud that enrols whoever has it, as the real one answers."""
    token = identity.Token.new(cloud.authority.certificate)

    def sign(body: bytes) -> tuple[int, bytes]:
        asked = json.loads(body)
        if asked["secret"] != token.secret:
            return 403, json.dumps({"error": "token: used already"}).encode()
        certificate = cloud.authority.sign_request(asked["csr"].encode(), "pump-7", datetime.now(timezone.utc), 30)
        return 200, json.dumps(reply(certificate)).encode()

    cloud.routes["GET", "/v1/authority"] = lambda _: (200, cloud.authority_pem)
    cloud.routes["POST", "/v1/enroll"] = sign
    return str(token)


def reply(certificate: bytes, **changes: Any) -> dict[str, Any]:
    return {
        "device": "pump-7", "fleet": "harbour", "profile": "industrial-pc", "certificate": certificate.decode(),
        "director": signing.public_pem(Ed25519PrivateKey.generate().public_key()).decode(),
        "ingest": base64.b64encode(IngestKey.new().public_bytes()).decode(), "root": "{}",
        "repository": "https://cloud/tuf", "gateway": "cloud:8444", "mqtt": "cloud:8883", "news": "of a later version",
    } | changes  # fmt: skip


def test_makes_a_whole_device(cloud: Any, token: str, tmp_path: Path) -> None:
    folders = Folders(tmp_path / "device")
    enroll(folders.root, cloud.url, token, "pump-7")
    config = load(folders)
    assert (config.fleet, config.device, config.profile) == ("harbour", "pump-7", "industrial-pc")
    assert config.transports == ("mqtt", "grpc")
    assert stat.S_IMODE(folders.key.stat().st_mode) == 0o600
    key = identity.load_key(folders.key.read_bytes())
    signed = identity.common_name(x509.load_pem_x509_certificate(folders.certificate.read_bytes()))
    assert signed == "pump-7" and key.key_size == 256
    assert folders.authority.read_bytes() == cloud.authority_pem


def test_a_key_that_devices_share_comes_along(cloud: Any, token: str, tmp_path: Path) -> None:
    folders, file = Folders(tmp_path / "device"), tmp_path / "shared.key"
    file.write_bytes(b"short")
    with pytest.raises(ConfigError, match="has 5 bytes"):
        enroll(folders.root, cloud.url, token, "pump-7", pseudonyms=file)
    assert not folders.root.exists() and cloud.requests == []
    file.write_bytes(bytes(32))
    enroll(folders.root, cloud.url, token, "pump-7", pseudonyms=file)
    assert folders.pseudonyms.read_bytes() == bytes(32)
    assert stat.S_IMODE(folders.pseudonyms.stat().st_mode) == 0o600


def test_a_folder_is_enrolled_once(cloud: Any, token: str, tmp_path: Path) -> None:
    enroll(tmp_path / "device", cloud.url, token, "pump-7")
    before = (tmp_path / "device/identity/device.key").read_bytes()
    with pytest.raises(StateError, match="already enrolled"):
        enroll(tmp_path / "device", cloud.url, token, "pump-7")
    assert (tmp_path / "device/identity/device.key").read_bytes() == before


def test_the_secret_is_not_told_to_another_authority(cloud: Any, token: str, tmp_path: Path) -> None:
    other = identity.Authority.new("desert", datetime.now(timezone.utc))
    with pytest.raises(TrustError, match="the token trusts"):
        enroll(tmp_path / "device", cloud.url, str(identity.Token.new(other.certificate)), "pump-7")
    assert cloud.requests == ["/v1/authority"]


def bad_token(cloud: Any, token: str) -> str:
    return str(identity.Token.new(cloud.authority.certificate))


def strange_certificate(cloud: Any, token: str) -> str:
    csr = identity.request("pump-7", identity.new_key())
    certificate = cloud.authority.sign_request(csr, "pump-7", datetime.now(timezone.utc), 30)
    cloud.routes["POST", "/v1/enroll"] = lambda _: (200, json.dumps(reply(certificate)).encode())
    return token


def no_cloud(cloud: Any, token: str) -> str:
    cloud.routes["GET", "/v1/authority"] = lambda _: (404, b"")
    return token


def endless(cloud: Any, token: str) -> str:
    cloud.routes["POST", "/v1/enroll"] = lambda _: (200, b"x" * (1 << 21))
    return token


def bad_request(cloud: Any, token: str) -> str:
    cloud.routes["POST", "/v1/enroll"] = lambda _: (400, b'{"error": "profile: no such"}')
    return token


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (bad_token, TrustError),
        (strange_certificate, TrustError),
        (no_cloud, LinkError),
        (endless, SkerryError),
        (bad_request, UsageError),
        (lambda cloud, token: "skerry-nonsense", UsageError),
    ],
)
def test_what_fails_leaves_nothing_behind(
    cloud: Any, token: str, tmp_path: Path, spoil: Callable[[Any, str], str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        enroll(tmp_path / "device", cloud.url, spoil(cloud, token), "pump-7")
    assert not (tmp_path / "device").exists()


def test_a_full_disk_leaves_nothing_behind(
    cloud: Any, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "device").mkdir()
    monkeypatch.setattr("skerry_edge.enroll.sync_folder", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        enroll(tmp_path / "device", cloud.url, token, "pump-7")
    assert list((tmp_path / "device").iterdir()) == []


def test_enrolling_warns_of_nothing(cloud: Any, token: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    enroll(tmp_path / "device", cloud.url, token, "pump-7")
    assert [str(warning.message) for warning in recwarn] == []


def test_a_folder_that_cannot_be_written_to_spends_no_token(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match="cannot be written to"), _room(tmp_path / "file" / "device"):
        raise AssertionError("nothing may be asked")
