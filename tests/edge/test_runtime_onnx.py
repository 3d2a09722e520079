import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from skerry_edge.adapters import runtime_onnx
from skerry_edge.adapters.runtime_onnx import OnnxRuntime
from skerry_shared import bundle, plugins
from skerry_shared.bundle import Golden
from skerry_shared.errors import ModelError
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


def save(folder: Path, kind: str, dims: list[Any], out: list[Any]) -> Path:
    """One operator on float32 ``x`` of these dimensions, giving ``y``; ``out`` is what it claims."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    y = helper.make_tensor_value_info("y", TensorProto.INT64 if kind == "NonZero" else TensorProto.FLOAT, out)
    graph = helper.make_graph([helper.make_node(kind, ["x"], ["y"])], "one", [x], [y])
    path = folder / f"{kind}.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def ones(*shape: int) -> dict[str, Any]:
    return {"x": np.ones(shape, np.float32)}


def test_answers_are_the_callers_to_keep_and_to_change(tmp_path: Path) -> None:
    model = OnnxRuntime().load(save(tmp_path, "Neg", ["n", 2], ["n", 2]), 1)
    first = model.run(ones(1, 2))
    second = model.run({"x": np.full((1, 2), 7, np.float32)})
    second["y"][:] = 0
    assert first["y"].tolist() == [[-1, -1]]
    assert model.run(ones(1, 2))["y"].tolist() == [[-1, -1]]


def test_any_layout_of_an_input(tmp_path: Path) -> None:
    model = OnnxRuntime().load(save(tmp_path, "Neg", ["n", 2], ["n", 2]), 1)
    across = np.arange(8, dtype=np.float32).reshape(2, 4).T[::2]
    assert model.run({"x": across})["y"].tolist() == (-across).tolist()


def test_more_shapes_than_are_kept(tmp_path: Path) -> None:
    model = OnnxRuntime().load(save(tmp_path, "Neg", ["n", 2], ["n", 2]), 1)
    for count in [*range(1, 2 * runtime_onnx.BOUND_SHAPES), 1]:
        assert model.run(ones(count, 2))["y"].shape == (count, 2)
    assert len(model._bindings.known) == runtime_onnx.BOUND_SHAPES


def test_outputs_that_the_inputs_do_not_determine(tmp_path: Path) -> None:
    model = OnnxRuntime().load(save(tmp_path, "NonZero", ["n", 2], [2, "found"]), 1)
    assert model.run(ones(3, 2))["y"].shape == (2, 6)
    assert model.run({"x": np.zeros((3, 2), np.float32)})["y"].shape == (2, 0)


def test_outputs_that_are_not_as_declared(tmp_path: Path) -> None:
    model = OnnxRuntime().load(save(tmp_path, "Transpose", ["n", "m"], ["n", "m"]), 1)
    for _ in range(2):
        assert model.run(ones(1, 3))["y"].shape == (3, 1)


def test_large_tensors_take_the_plain_way(tmp_path: Path) -> None:
    model = OnnxRuntime().load(save(tmp_path, "Neg", ["n", 2], ["n", 2]), 1)
    count = runtime_onnx.BOUND_BYTES
    assert model.run(ones(count, 2))["y"].shape == (count, 2)
    assert list(model._bindings.known.values()) == [None]


def test_threads_do_not_share_buffers(tmp_path: Path) -> None:
    model, wrong = OnnxRuntime().load(save(tmp_path, "Neg", ["n", 64], ["n", 64]), 1), list[float]()

    def ask(value: float) -> None:
        for _ in range(300):
            if not (model.run({"x": np.full((1, 64), value, np.float32)})["y"] == -value).all():
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_provider_that_is_not_there_is_no_cpu_in_disguise(tmp_path: Path) -> None:
    path = save(tmp_path, "Neg", ["n", 2], ["n", 2])
    assert OnnxRuntime().providers() == ["cpu"]
    for provider in ("cuda", "tensorrt", "abacus"):
        with pytest.raises(ModelError, match=provider):
            OnnxRuntime().load(path, 1, provider)


@pytest.mark.parametrize(("content", "quantised"), [(b"... QuantizeLinear ...", "1"), (b"... Conv ...", "0")])
def test_tensorrt_is_told_whether_a_model_is_quantised(tmp_path: Path, content: bytes, quantised: str) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(content)
    name, options = runtime_onnx._provider("tensorrt", model, tmp_path)
    assert (name, options["trt_int8_enable"]) == ("TensorrtExecutionProvider", quantised)
    assert options["trt_engine_cache_path"] == str(tmp_path)
    assert runtime_onnx._provider("cuda", model, None) == ("CUDAExecutionProvider", {"use_tf32": "0"})
    assert runtime_onnx._provider("cpu", model, tmp_path) == ("CPUExecutionProvider", {})
