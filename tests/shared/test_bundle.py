import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skerry_shared import bundle
from skerry_shared.bundle import Golden
from skerry_shared.errors import ModelError, UnfitError
from skerry_shared.testing.examples import MANIFEST

pytestmark = pytest.mark.arm64


GOLDEN = Golden({"picture": np.zeros((1, 2, 2), np.uint8)}, {"scores": np.array([[0.25, 0.75]], np.float32)})


def packed() -> bytes:
    return bundle.pack(MANIFEST, b"model", GOLDEN)


def test_the_same_parts_give_the_same_bytes_and_come_back(tmp_path: Path) -> None:
    assert packed() == packed()
    found = bundle.unpack(packed(), tmp_path / "slot")
    assert found.manifest == MANIFEST == bundle.peek(packed())
    assert found.model.read_bytes() == b"model"
    np.testing.assert_array_equal(found.golden.outputs["scores"], GOLDEN.outputs["scores"])
    assert bundle.load(tmp_path / "slot").manifest == MANIFEST


def tar(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.linkname = len(content), kind, "/etc/passwd"
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "golden/in/../../evil", "a/b", ".hidden", "golden/x/a.npy"])
def test_members_outside_the_layout_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="unexpected member"):
        bundle.unpack(tar(name), tmp_path / "slot")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_only_regular_files_are_members(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ModelError, match="unexpected member"):
        bundle.unpack(tar("model.onnx", kind=kind), tmp_path / "slot")


def test_damage_is_a_model_error(tmp_path: Path) -> None:
    for number, data in enumerate((b"no tar at all", tar("model.onnx"), tar("manifest.json", b"{}x"))):
        with pytest.raises(ModelError):
            bundle.unpack(data, tmp_path / str(number))


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    bundle.unpack(packed(), tmp_path / "slot")
    np.save(tmp_path / "slot/golden/in/picture.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelError, match="allow_pickle"):
        bundle.load(tmp_path / "slot")


def test_a_target_names_what_does_not_fit() -> None:
    target = MANIFEST.target
    target.check("x86_64", ("onnxruntime",), 1 << 20)
    for wrong, words in (
        (replace(target, arch="aarch64"), "is for aarch64"),
        (replace(target, runtime="litert"), "needs runtime 'litert'"),
        (replace(target, memory_bytes=2 << 20), "bytes of memory"),
    ):
        with pytest.raises(UnfitError, match=words):
            wrong.check("x86_64", ("onnxruntime",), 1 << 20)
