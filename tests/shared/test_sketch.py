import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from skerry_shared import sketch

pytestmark = pytest.mark.arm64


floats = st.floats(-1e6, 1e6) | st.just(float("nan"))
arrays = hnp.arrays(np.float64, st.integers(0, 200), elements=floats)
edges = st.lists(st.floats(-1e6, 1e6), max_size=20, unique=True).map(sorted)


@given(arrays, edges)
def test_every_value_is_in_one_bin_and_missing_ones_in_the_last(values: NDArray[np.float64], at: list[float]) -> None:
    counts = sketch.count(values, at)
    assert len(counts) == len(at) + 2 and counts.sum() == len(values)
    assert counts[-1] == np.isnan(values).sum()
    for place, edge in enumerate(at):
        assert counts[: place + 1].sum() == (values < edge).sum()


@given(arrays, arrays, edges)
def test_counts_add_up(left: NDArray[np.float64], right: NDArray[np.float64], at: list[float]) -> None:
    both = sketch.count(np.concatenate([left, right]), at)
    np.testing.assert_array_equal(both, sketch.count(left, at) + sketch.count(right, at))


def test_a_baseline_has_even_bins_and_one_bin_a_class() -> None:
    random = np.random.default_rng(0)
    scores = random.dirichlet([1, 1, 1], 3000).astype(np.float32)
    monitors = random.normal(size=(3000, 1)).astype(np.float32)
    values = sketch.channel_values(scores, monitors)
    channels = sketch.baseline(sketch.channel_names(["brightness"]), values, labels=3)
    assert [channel.name for channel in channels] == ["brightness", "predicted class", "confidence"]
    brightness, classes, _ = channels
    assert len(brightness.counts) == sketch.BINS + 1 and brightness.counts[-1] == 0
    assert max(brightness.counts[:-1]) - min(brightness.counts[:-1]) <= 2
    assert classes.counts[:3] == tuple(np.bincount(scores.argmax(axis=1)))
