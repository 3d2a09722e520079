import os
from pathlib import Path

import pytest

from skerry_shared import files


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
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (calls.append("rename"), replace(self, to))[1])
    files.write_durably(tmp_path / "state", b"new", mode=0o600)
    assert calls == ["fsync", "rename", "fsync"]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def _fail(*_: object, **__: object) -> None:
    raise OSError("disk")
