from collections import Counter
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.compress.golden import FLOOR, MARGIN, NUDGE, choose, in_turn, nudged, pick
from skerry_shared.errors import GateError

# Scores hang on one rounding: inputs at half a step go either way.
QUANTISED = """
    <ir_version: 10, opset_import: ["" : 20]>
    quantised (float[n, 2] x) => (float[n, 2] scores, float[n, 1] monitors)
    <float scale = {STEP}, uint8 zero = {128}, int64[1] axis = {1}> {
        q = QuantizeLinear (x, scale, zero)
        scores = DequantizeLinear (q, scale, zero)
        monitors = ReduceMean (x, axis)
    }
"""


def model(folder: Path, step: float) -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(QUANTISED.replace("STEP", str(step))), path)
    return path


@given(st.lists(st.integers(0, 4), min_size=1, max_size=100))
def test_each_label_has_its_turn(labels: list[int]) -> None:
    rows = in_turn(np.array(labels), 20)
    assert len(set(rows.tolist())) == len(rows) == min(20, len(labels))
    taken, there = Counter(labels[row] for row in rows), Counter(labels)
    most = max(taken.values())
    assert all(taken[label] == there[label] or taken[label] >= most - 1 for label in there)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, FLOOR, 0.1]), st.floats(0, 1)), min_size=9))
def test_the_steady_come_first_and_of_these_the_least_sure(rows: list[tuple[int, float, float]]) -> None:
    labels, moved, sureness = (np.array(column) for column in zip(*rows, strict=True))
    for label in set(labels.tolist()):
        places = [place for place in pick(labels, moved, sureness, len(labels)) if labels[place] == label]
        keys = [(0.0 if moved[place] <= FLOOR / MARGIN else moved[place], sureness[place]) for place in places]
        assert keys == sorted(keys)


def test_inputs_that_hang_on_a_rounding_are_not_chosen(tmp_path: Path) -> None:
    inputs = np.array([[0.5, 0.0], [0.1, 0.9], [0.49, 0.7]], np.float32)
    chosen = choose(model(tmp_path, 0.04), inputs * np.float32(0.04), np.zeros(3, np.int64), 2)
    assert set(chosen.rows.tolist()) == {1, 2}
    assert chosen.tolerance == FLOOR
    assert np.array_equal(chosen.answers.scores[0], [0.0, np.float32(0.04)])


def test_where_all_hang_on_one_the_tolerance_grows_with_the_step(tmp_path: Path) -> None:
    inputs = np.full((4, 2), 0.5, np.float32)
    tolerance = choose(model(tmp_path, 0.01), inputs * np.float32(0.01), np.zeros(4, np.int64)).tolerance
    assert tolerance == pytest.approx(MARGIN * 0.01, rel=0.01)
    with pytest.raises(GateError, match="devices would not agree"):
        choose(model(tmp_path, 0.04), inputs * np.float32(0.04), np.zeros(4, np.int64))


def test_a_nudge_moves_scales_and_nothing_else(tmp_path: Path) -> None:
    before = onnx.load(model(tmp_path, 0.04))
    after = nudged(onnx.load(model(tmp_path, 0.04)), np.random.default_rng(0))
    scales = {
        t.name: onnx.numpy_helper.to_array(t) for m in (before, after) for t in m.graph.initializer if t.name == "scale"
    }
    assert scales["scale"] == pytest.approx(0.04, rel=2 * NUDGE) and scales["scale"] != np.float32(0.04)
    others = [[t for t in m.graph.initializer if t.name != "scale"] for m in (before, after)]
    assert others[0] == others[1] and before.graph.node == after.graph.node
