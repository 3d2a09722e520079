from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skerry_cloud.compress.golden import FLOOR, LIMIT, MARGIN, NUDGE, choose, in_turn, nudged, pick
from skerry_cloud.workloads import Examples

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


def examples(inputs: list[list[float]], step: float) -> Examples:
    return Examples(np.array(inputs, np.float32) * np.float32(step), np.zeros(len(inputs), np.int64))


def test_inputs_that_hang_on_a_rounding_are_not_chosen(tmp_path: Path) -> None:
    chosen = choose(model(tmp_path, 0.04), examples([[0.5, 0.0], [0.1, 0.9], [0.49, 0.7]], 0.04), 2)
    assert set(chosen.rows.tolist()) == {1, 2}
    assert chosen.tolerance == FLOOR
    np.testing.assert_array_equal(chosen.answers.scores, np.array([[0.0, 0.04]] * 2, np.float32))


def test_where_all_hang_on_one_the_tolerance_grows_with_the_step(tmp_path: Path) -> None:
    chosen = choose(model(tmp_path, 0.04), examples([[0.5, 0.5]] * 4, 0.04))
    assert chosen.moved == pytest.approx(0.04, rel=0.01) and chosen.moved > LIMIT
    assert chosen.tolerance == MARGIN * chosen.moved


@pytest.mark.parametrize(("dtype", "step"), [(np.float32, NUDGE), (np.float16, 2**-10)])
def test_a_nudge_is_as_far_as_kernels_differ(dtype: type, step: float) -> None:
    values: NDArray[Any] = np.linspace(1, 2, 100, dtype=dtype)
    random = np.random.default_rng(0)
    ratios = np.array([nudged(values, random).astype(np.float64) / values for _ in range(8)])
    assert (ratios.min(axis=1) > 1).any() and (ratios.max(axis=1) < 1).any()
    np.testing.assert_allclose(np.abs(ratios - 1), step, rtol=0.6)
