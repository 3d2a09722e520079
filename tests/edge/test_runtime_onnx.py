from collections.abc import Callable
from pathlib import Path

import pytest

from skerry_edge.adapters.runtime_onnx import OnnxRuntime
from skerry_shared import bundle, plugins
from skerry_shared.bundle import Golden
from skerry_shared.release import Manifest
from skerry_shared.testing.runtime import check_runtime

pytestmark = pytest.mark.arm64


Release = Callable[..., tuple[bytes, Manifest]]


def test_keeps_the_contract(release: Release, tmp_path: Path) -> None:
    unpacked = bundle.unpack(release()[0], tmp_path / "unpacked")
    check_runtime(OnnxRuntime(), unpacked.model, unpacked.golden)


def test_the_contract_notices_wrong_answers(release: Release, tmp_path: Path) -> None:
    unpacked = bundle.unpack(release()[0], tmp_path / "unpacked")
    wrong = Golden(unpacked.golden.inputs, {"scores": unpacked.golden.outputs["scores"] * 2})
    with pytest.raises(AssertionError, match="'scores' differs"):
        check_runtime(OnnxRuntime(), unpacked.model, wrong)


def test_is_an_entry_point() -> None:
    assert plugins.load("skerry.runtimes", "onnxruntime") is OnnxRuntime
