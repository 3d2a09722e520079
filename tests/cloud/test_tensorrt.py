"""What a Jetson gets, checked by contract: QDQ by TensorRT's rules, and its table. No Jetson was at hand."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from skerry_cloud import workloads
from skerry_cloud.adapters.onnx_model import OnnxModel
from skerry_cloud.compress import graphs
from skerry_cloud.compress.passes.static import Int8
from skerry_cloud.compress.passes.tensorrt import STEPS, TensorRt, read_table, table, write_table
from skerry_cloud.passes import Material
from skerry_cloud.testing import material
from skerry_cloud.train.export import export

HERE = Path(__file__).parent
LINE = re.compile(r"[^\n]+: [0-9a-f]{8}")


@pytest.fixture(scope="module")
def stuff() -> Material:
    return material(workloads.load("tiny.py:Tiny", HERE))


@pytest.fixture(scope="module")
def files(stuff: Material, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The float file, and what TensorRT gets."""
    folder = tmp_path_factory.mktemp("tensorrt")
    torch.manual_seed(0)
    export(stuff.workload.model().eval(), stuff.workload, torch.tensor(stuff.train.inputs[:2]), folder / "float.onnx")
    TensorRt()(folder / "float.onnx", folder / "model.onnx", stuff)
    return folder / "float.onnx", folder / "model.onnx"


def test_every_zero_point_is_zero_and_every_pair_is_of_signed_bytes(files: tuple[Path, Path]) -> None:
    graph = onnx.load(files[1]).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero_point = constants[node.input[2]]
        assert zero_point.dtype == np.int8 and not zero_point.any()


def test_weights_have_a_pair_with_a_scale_a_channel_and_biases_none(files: tuple[Path, Path]) -> None:
    graph = onnx.load(files[1]).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in [node for node in graph.node if node.op_type in graphs.WEIGHTED]:
        read = makers[node.input[1]]
        written = makers[read.input[0]]
        assert (written.op_type, read.op_type) == ("QuantizeLinear", "DequantizeLinear")
        weights, scales = constants[written.input[0]], constants[written.input[1]]
        assert weights.dtype == np.float32 and scales.size in (1, weights.shape[0])
        assert constants[node.input[2]].dtype == np.float32


def test_the_table_holds_what_was_measured_and_the_graph_uses_it(files: tuple[Path, Path], stuff: Material) -> None:
    text = table(files[1])
    header, *lines = text.splitlines()
    assert header == "TRT-100300-EntropyCalibration2"
    assert lines and all(LINE.fullmatch(line) for line in lines)
    measured = Int8("aarch64", "entropy").ranges(graphs.load(files[0]), stuff.calibration)
    told = read_table(text)
    assert told.keys() == dict(measured.items()).keys()
    for name, data in measured.items():
        assert told[name] == pytest.approx(max(abs(float(bound)) for bound in data.range_value), rel=1e-6)
    graph = onnx.load(files[1]).graph
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    used = {node.input[0]: scales[node.input[1]] for node in graph.node if node.op_type == "QuantizeLinear"}
    compared = [name for name in used if name in told]
    assert compared
    for name in compared:
        assert float(used[name]) == pytest.approx(told[name] / STEPS, rel=0.01), name


def test_it_answers_nearly_as_the_float_model_and_loads_where_jetpack_6_does(
    files: tuple[Path, Path], stuff: Material
) -> None:
    exact, rounded = (OnnxModel(path).run(stuff.train.inputs) for path in files)
    assert np.abs(exact.scores - rounded.scores).max() < 0.1
    assert np.array_equal(exact.monitors, rounded.monitors)
    model = onnx.load(files[1])
    assert model.ir_version <= 10 and all(entry.version <= 20 for entry in model.opset_import if not entry.domain)


@given(st.dictionaries(st.from_regex(r"[a-z_/.:]{1,20}", fullmatch=True), st.floats(1e-6, 1e6)))
def test_a_table_comes_back(amplitudes: dict[str, float]) -> None:
    found = read_table(write_table(amplitudes, "10.3.0"))
    assert found.keys() == amplitudes.keys()
    assert all(found[name] == pytest.approx(value, rel=1e-6) for name, value in amplitudes.items())


def test_a_version_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="'ten' is not like"):
        TensorRt(version="ten")
