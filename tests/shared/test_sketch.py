import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from skerry_shared import sketch
from skerry_shared.release import Channel

pytestmark = pytest.mark.arm64


floats = st.floats(-1e6, 1e6) | st.just(float("nan"))
arrays = hnp.arrays(np.float64, st.integers(0, 200), elements=floats)
edges = st.lists(st.floats(-1e6, 1e6), max_size=20, unique=True).map(sorted)


def channel(at: list[float], repeats: bool = False, lag: float = 0.0) -> Channel:
    return Channel("c", tuple(at), (0,) * (len(at) + 2 + repeats), lag)


@given(arrays, edges)
def test_every_value_is_in_one_bin_and_missing_ones_in_the_last(values: NDArray[np.float64], at: list[float]) -> None:
    counts = sketch.count(channel(at), values)
    assert len(counts) == len(at) + 2 and counts.sum() == len(values)
    assert counts[-1] == np.isnan(values).sum()
    for place, edge in enumerate(at):
        assert counts[: place + 1].sum() == (values < edge).sum()


@given(arrays, arrays, edges, st.booleans(), st.sampled_from([0.0, 0.5]))
def test_counts_add_up(
    left: NDArray[np.float64], right: NDArray[np.float64], at: list[float], repeats: bool, lag: float
) -> None:
    """A stream cut anywhere counts as a whole, if each part knows the value before it."""
    cut = channel(at, repeats, lag)
    last = left[-1] if len(left) else math.nan
    both = sketch.count(cut, np.concatenate([left, right]))
    np.testing.assert_array_equal(both, sketch.count(cut, left) + sketch.count(cut, right, last))


@given(arrays, edges)
def test_repeated_values_are_in_their_own_bin(values: NDArray[np.float64], at: list[float]) -> None:
    counts = sketch.count(channel(at, repeats=True), np.repeat(values, 3))
    assert counts[-2] == 2 * (~np.isnan(values)).sum() + (values[1:] == values[:-1]).sum()
    assert counts[-1] == 3 * np.isnan(values).sum()


def test_a_baseline_has_even_bins_sides_and_one_bin_a_class() -> None:
    random = np.random.default_rng(0)
    scores = random.dirichlet([1, 1, 1], 3000).astype(np.float32)
    monitors = random.normal(size=(3000, 1)).astype(np.float32)
    values = sketch.channel_values(scores, monitors)
    channels = sketch.baseline(sketch.channel_names(["brightness"]), values, labels=3)
    assert [channel.name for channel in channels] == ["brightness", "predicted class", "confidence"]
    brightness, classes, _ = channels
    assert len(brightness.counts) == sketch.BINS + 4 and brightness.repeats
    below, *even, above, repeated, missing = brightness.counts
    assert (below, above, repeated, missing) == (0, 0, 0, 0)
    assert max(even) - min(even) <= 2
    assert classes.counts[:3] == tuple(np.bincount(scores.argmax(axis=1))) and not classes.repeats
    assert sketch.recount(channels, values) == channels


def test_values_that_repeat_by_nature_have_no_bin_for_it() -> None:
    values = np.random.default_rng(0).integers(0, 5, (1000, 1)).astype(float)
    (found,) = sketch.baseline(["speed"], values, labels=2)
    assert not found.repeats


def test_a_residual_is_what_the_value_before_does_not_foretell() -> None:
    random, series = np.random.default_rng(0), np.zeros(5000)
    for i in range(1, 5000):
        series[i] = 0.8 * series[i - 1] + random.normal()
    found = sketch.residual("wind", series)
    assert abs(found.lag - 0.8) < 0.03 and sketch.autocorrelation(series) == found.lag
    assert sum(found.counts) == 4999
    middle = found.edges[len(found.edges) // 2]
    assert abs(middle) < 0.1 and found.edges[1] == pytest.approx(-1.53, abs=0.15)  # the 1/16 quantile of the noise
