"""The contract, on a .tflite file that is put together here. Skipped where no LiteRT is installed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skerry_edge.adapters.runtime_litert import SHAPES, LiteRt
from skerry_shared import plugins
from skerry_shared.bundle import Golden
from skerry_shared.errors import ModelError
from skerry_shared.golden import difference
from skerry_shared.testing.runtime import check_runtime

schema: Any = pytest.importorskip("ai_edge_litert.schema_py_generated")

DRAW = np.random.default_rng(0)
WEIGHTS = DRAW.normal(size=(3, 4)).astype(np.float32)


def tensor(name: str, shape: list[int], buffer: int = 0) -> Any:
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, shape, schema.TensorType.FLOAT32, buffer
    return made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """One fully connected layer: x [n, 4] → y [n, 3]."""
    flatbuffers: Any = pytest.importorskip("flatbuffers")
    code, layer, graph, file = schema.OperatorCodeT(), schema.OperatorT(), schema.SubGraphT(), schema.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    layer.opcodeIndex, layer.inputs, layer.outputs = 0, [0, 1, -1], [2]
    layer.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    layer.builtinOptions = schema.FullyConnectedOptionsT()
    graph.tensors = [tensor("x", [1, 4]), tensor("weights", [3, 4], 1), tensor("y", [1, 3])]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [layer]
    empty, weights = schema.BufferT(), schema.BufferT()
    weights.data = np.frombuffer(WEIGHTS.tobytes(), np.uint8)
    file.version, file.operatorCodes, file.subgraphs, file.buffers = 3, [code], [graph], [empty, weights]
    builder = flatbuffers.Builder(1024)
    builder.Finish(file.Pack(builder), b"TFL3")
    path = tmp_path / "model.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path


def golden(rows: int = 5) -> Golden:
    x = DRAW.normal(size=(rows, 4)).astype(np.float32)
    return Golden({"x": x}, {"y": x @ WEIGHTS.T})


def test_keeps_the_contract(model: Path) -> None:
    check_runtime(LiteRt(), model, golden())


def test_more_shapes_than_are_kept(model: Path) -> None:
    loaded = LiteRt().load(model, 1)
    for rows in [*range(1, 2 * SHAPES), 1]:
        known = golden(rows)
        assert difference("y", loaded.run(known.inputs)["y"], known.outputs["y"]) < 1e-5
    assert len(loaded._prepared) == SHAPES


def test_a_wrong_shape_is_named(model: Path) -> None:
    with pytest.raises(ModelError, match=r"input 'x': takes \[1, 4\], got \[1, 5\]"):
        LiteRt().load(model, 1).run({"x": np.zeros((1, 5), np.float32)})


def test_is_an_entry_point() -> None:
    assert plugins.load("skerry.runtimes", "litert") is LiteRt
    assert LiteRt().version().startswith("ai-edge-litert 2")
