import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError, UnsignedMetadataError
from tuf.api.metadata import Metadata
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from skerry_cloud.keys import Keys
from skerry_cloud.release.repository import Repository
from skerry_shared import files, identity
from skerry_shared.errors import ConfigError

NOW = identity.utc(time.time())


class Files(FetcherInterface):
    """Fetches from the folder that a web server would serve."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(url)
        if not path.is_file():
            raise DownloadHTTPError("not there", 404)
        yield path.read_bytes()


def client(tmp_path: Path, repository: Repository) -> Updater:
    """A device that sees the repository for the first time."""
    folder = tmp_path / "client"
    folder.mkdir(exist_ok=True)
    made = Updater(
        str(folder), f"{tmp_path}/repository/metadata", str(folder), f"{tmp_path}/repository/targets",
        fetcher=Files(), bootstrap=repository.root,
    )  # fmt: skip
    made.refresh()
    return made


def fetch(updater: Updater, path: str) -> bytes:
    info = updater.get_targetinfo(path)
    assert info
    return Path(updater.download_target(info)).read_bytes()


def test_a_stock_client_fetches_what_was_published(tmp_path: Path, repository: Repository) -> None:
    placed = repository.publish("fashion", 1, {"a": b"one", "b": b"two"}, NOW)
    repository.publish("digits", 1, {"a": b"three"}, NOW)
    repository.publish("fashion", 2, {"a": b"four"}, NOW)
    updater = client(tmp_path, repository)
    assert fetch(updater, placed["b"].path) == b"two"
    assert fetch(updater, "digits/1/a.bundle") == b"three"
    assert fetch(updater, "fashion/2/a.bundle") == b"four"
    assert updater.get_targetinfo("fashion/3/a.bundle") is None
    assert (repository.newest("fashion"), repository.newest("digits"), repository.newest("other")) == (2, 1, 0)


@pytest.mark.parametrize("writes", range(1, 8))
def test_a_publication_cut_short_leaves_a_whole_repository_and_can_be_repeated(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    repository.publish("digits", 1, {"a": b"before"}, NOW)
    left, write = iter(range(writes)), files.write_durably

    def cut(path: Path, content: bytes) -> None:
        next(left)
        write(path, content)

    with monkeypatch.context() as power:
        power.setattr("skerry_cloud.release.repository.write_durably", cut)
        try:
            repository.publish("fashion", 1, {"a": b"new"}, NOW)
        except (StopIteration, RuntimeError):
            assert fetch(client(tmp_path, repository), "digits/1/a.bundle") == b"before"
    number = repository.newest("fashion") + 1
    repository.publish("fashion", number, {"a": b"again"}, NOW)
    assert fetch(client(tmp_path, repository), f"fashion/{number}/a.bundle") == b"again"


def test_what_is_withdrawn_is_out_of_the_metadata_and_off_the_disk(tmp_path: Path, repository: Repository) -> None:
    repository.publish("fashion", 1, {"a": b"one"}, NOW)
    placed = repository.publish("fashion", 0, {"a-1": b"candidate", "a-2": b"another"}, NOW)
    assert fetch(client(tmp_path, repository), "fashion/0/a-1.bundle") == b"candidate"
    repository.withdraw("fashion", [placed["a-1"].path, "fashion/0/never.bundle"], NOW)
    updater = client(tmp_path, repository)
    assert updater.get_targetinfo("fashion/0/a-1.bundle") is None
    assert fetch(updater, "fashion/0/a-2.bundle") == b"another"
    assert len(list((tmp_path / "repository/targets/fashion/0").iterdir())) == 1
    repository.withdraw_candidates(NOW)
    updater = client(tmp_path, repository)
    assert updater.get_targetinfo("fashion/0/a-2.bundle") is None
    assert fetch(updater, "fashion/1/a.bundle") == b"one"
    assert not (tmp_path / "repository/targets/fashion/0").exists()
    repository.publish("fashion", 0, {"a-1": b"candidate"}, NOW)  # measured once more


def test_what_ages_is_renewed_and_a_client_follows(tmp_path: Path, repository: Repository) -> None:
    repository.publish("fashion", 1, {"a": b"one"}, NOW)
    assert not repository.renew(NOW)
    for later in (NOW + timedelta(days=5), NOW + timedelta(days=330)):
        assert repository.renew(later)
        assert not repository.renew(later)
        assert fetch(client(tmp_path, repository), "fashion/1/a.bundle") == b"one"


def test_a_known_workload_is_published_without_the_offline_keys(
    tmp_path: Path, repository: Repository, fleet_keys: Keys
) -> None:
    repository.publish("fashion", 1, {"a": b"one"}, NOW)
    (fleet_keys.folder / "offline").rename(tmp_path / "safe")
    repository.publish("fashion", 2, {"a": b"two"}, NOW)
    assert fetch(client(tmp_path, repository), "fashion/2/a.bundle") == b"two"
    with pytest.raises(ConfigError, match="needs the targets key"):
        repository.publish("other", 1, {"a": b"x"}, NOW)
    assert fetch(client(tmp_path, repository), "fashion/2/a.bundle") == b"two"


def test_one_workloads_key_does_not_speak_for_another(tmp_path: Path, repository: Repository) -> None:
    repository.publish("fashion", 1, {"a": b"one"}, NOW)
    role = tmp_path / "repository/metadata/2.models-fashion.json"
    metadata = Metadata.from_file(str(role))
    metadata.signatures.clear()
    role.write_bytes(metadata.to_bytes())
    with pytest.raises(UnsignedMetadataError):
        client(tmp_path, repository).get_targetinfo("fashion/1/a.bundle")
    assert isinstance(NOW, datetime)
