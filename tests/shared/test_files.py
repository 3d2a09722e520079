import os
from pathlib import Path

import pytest

from skerry_shared import files

pytestmark = pytest.mark.arm64


def test_a_write_that_fails_anywhere_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    files.write_durably(path, b"old")
    for victim in ("fsync", "fdopen"):
        with monkeypatch.context() as broken:
            broken.setattr(os, victim, _fail)
            with pytest.raises(OSError, match="disk"):
                files.write_durably(path, b"new")
        assert path.read_bytes() == b"old"


def test_data_and_name_are_synced_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        calls.append("fsync")
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    files.write_durably(tmp_path / "state", b"new", mode=0o600)
    assert calls == ["fsync", "rename", "fsync"]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def _fail(*_: object, **__: object) -> None:
    raise OSError("disk")
