import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper

from skerry_cloud import bulk
from skerry_shared.bundle import Bundle, Golden
from skerry_shared.errors import InputError, StateError
from skerry_shared.files import RUN
from skerry_shared.release import ANY, Lineage, Manifest, Measured, Target, TensorSpec

SPEC = TensorSpec("point", "float32", (ANY, 2))
LABELS = ("left", "right")
POINTS = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)


@pytest.fixture
def unpacked(tmp_path: Path) -> Bundle:
    """A model whose scores are the softmax of the point itself."""
    nodes = [
        helper.make_node("Softmax", ["point"], ["scores"], axis=1),
        helper.make_node("ReduceMean", ["point"], ["monitors"], axes=[1]),
    ]
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name, width in (("point", 2), ("scores", 2), ("monitors", 1))
    ]
    graph = helper.make_graph(nodes, "points", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    outputs = (TensorSpec("scores", "float32", (ANY, 2)), TensorSpec("monitors", "float32", (ANY, 1)))
    manifest = Manifest(
        workload="points", release=3, owner="o", labels=LABELS, inputs=(SPEC,), outputs=outputs,
        target=Target("p", "x86_64", "onnxruntime", "float32"), measured=Measured(1, 0.1, 1.0, 0.0),
        lineage=Lineage(1, "00", 1, "c"), baseline=(), tolerance=1e-3, model_file="m.onnx",
    )  # fmt: skip
    return Bundle(manifest, tmp_path / "m.onnx", Golden({}, {}))


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def answers(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(part) for part in sorted(folder.glob("*.parquet")))


@pytest.mark.parametrize("encode", [lambda row: row.tolist(), lambda row: row.tobytes()])
def test_every_row_is_answered_in_order(
    unpacked: Bundle, tmp_path: Path, encode: Callable[[np.ndarray[Any, Any]], object]
) -> None:
    file = parquet(tmp_path / "in.parquet", id=list(range(100)), point=[encode(row) for row in POINTS])
    seen: list[tuple[int, int]] = []
    assert bulk.answer(file, tmp_path / "out", unpacked, lambda *at: seen.append(at), size=30) == 100
    found = answers(tmp_path / "out")
    assert seen == [(30, 100), (60, 100), (90, 100), (100, 100)]
    assert found.column_names == ["id", "label", "scores"] and found["id"].to_pylist() == list(range(100))
    assert found["label"].to_pylist() == [LABELS[place] for place in POINTS.argmax(axis=1)]
    exact = np.exp(POINTS) / np.exp(POINTS).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.array(found["scores"].to_pylist()), exact, rtol=1e-5)


def test_what_is_there_is_not_computed_again(unpacked: Bundle, tmp_path: Path) -> None:
    file, out = parquet(tmp_path / "in.parquet", point=[row.tolist() for row in POINTS]), tmp_path / "out"
    bulk.answer(file, out, unpacked, lambda *_: None, size=30)
    before = {part.name: part.stat().st_mtime_ns for part in out.glob("*.parquet")}
    (out / "000002.parquet").unlink()
    bulk.answer(file, out, unpacked, lambda *_: None, size=30)
    after = {part.name: part.stat().st_mtime_ns for part in out.glob("*.parquet")}
    assert [name for name in sorted(after) if after[name] != before[name]] == ["000002.parquet"]
    assert json.loads((out / RUN).read_bytes())["release"] == "points/3"
    with pytest.raises(StateError, match="holds results of another run"):
        bulk.answer(file, out, unpacked, lambda *_: None, size=31)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"pont": [[1.0, 2.0]]}, "column 'point': the model's input is missing; there are pont"),
        ({"point": [[1.0, 2.0]], "label": ["x"]}, "column 'label': the answer is to be called so"),
        ({"point": ["text"]}, "column 'point': string is neither raw bytes nor a flat list of numbers"),
        ({"point": [[[1.0], [2.0]]]}, "neither raw bytes nor a flat list"),
        ({"point": [[1.0, 2.0], [1.0]]}, r"rows 0 to 1: float32 \[2\] takes 2 numbers a row, found \[2, 1\]"),
        ({"point": [b"1234567"]}, "takes 8 bytes a row"),
        ({"point": [[1.0, 2.0], None]}, "a value is missing"),
        ({"point": [[1.0, None]]}, "a number is missing"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    unpacked: Bundle, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        bulk.answer(parquet(tmp_path / "in.parquet", **columns), tmp_path / "out", unpacked, lambda *_: None)
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_what_is_no_parquet_file_is_refused(unpacked: Bundle, tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"nonsense")
    for name in ("in.parquet", "nowhere.parquet"):
        with pytest.raises(InputError, match="not a Parquet file"):
            bulk.answer(tmp_path / name, tmp_path / "out", unpacked, lambda *_: None)


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))))
def test_a_column_is_the_tensor_that_was_put_in(tensor: np.ndarray[Any, Any]) -> None:
    spec = TensorSpec("x", "uint8", (ANY, *tensor.shape[1:]))
    flat = tensor.reshape(len(tensor), -1)
    for column in (pa.array(flat.tolist(), pa.list_(pa.int64())), pa.array([row.tobytes() for row in flat])):
        np.testing.assert_array_equal(bulk.examples(column, spec), tensor)


def test_numbers_that_the_dtype_cannot_hold_are_refused() -> None:
    with pytest.raises(InputError, match="int64 does not fit into uint8"):
        bulk.examples(pa.array([[1, 256]]), TensorSpec("x", "uint8", (ANY, 2)))
