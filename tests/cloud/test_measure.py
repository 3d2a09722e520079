from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.compress.measure import (
    BASELINE_MAX,
    BASELINE_MIN,
    REFERENCE_MIN,
    baseline_rows,
    calibration_rows,
    reference_rows,
    with_residuals,
)
from skerry_cloud.datasets import REFERENCE
from skerry_cloud.workloads import Workload, load
from skerry_shared import sketch
from skerry_shared.errors import ConfigError


@given(st.integers(0, 50), st.integers(1, 500), st.integers(2, 64))
def test_calibration_takes_recent_rows_for_half_as_far_as_they_go(new: int, old: int, count: int) -> None:
    recent = np.arange(old + new) < new
    rows = calibration_rows(recent, count)
    assert len(set(rows.tolist())) == len(rows)
    assert recent[rows].sum() == min(new, count // 2)
    assert len(rows) == recent[rows].sum() + min(old, count - recent[rows].sum())


def reference(count: int) -> np.ndarray[Any, Any]:
    return np.array([REFERENCE] * count)


def test_a_baseline_is_held_out_where_there_is_enough() -> None:
    split = np.array(["train"] * 3000 + ["validation"] * 600 + ["test"] * 600)
    assert "train" not in split[baseline_rows(split, reference(len(split)))]


def test_a_small_baseline_is_filled_up_and_a_large_one_is_cut() -> None:
    few = np.array(["train"] * 3000 + ["test"] * 100)
    assert Counter(few[baseline_rows(few, reference(3100))]) == {"train": BASELINE_MIN - 100, "test": 100}
    many = np.array(["test"] * 9000)
    assert len(baseline_rows(many, reference(9000))) == BASELINE_MAX


def test_what_devices_sent_is_their_reference_and_not_the_baseline() -> None:
    split = np.array(["test"] * 3000 + (["train"] * 100 + ["test"] * REFERENCE_MIN) * 2)
    source = np.array([REFERENCE] * 3000 + ["device:a"] * (100 + REFERENCE_MIN) + ["device:b"] * (100 + REFERENCE_MIN))
    source[-1] = "device:c"
    assert set(source[baseline_rows(split, source)]) == {REFERENCE}
    found = reference_rows(split, source)
    assert list(found) == ["device:a"]  # b has one row too few, c has one in all
    assert set(source[found["device:a"]]) == {"device:a"} and "train" not in split[found["device:a"]]


def wandering(count: int) -> np.ndarray[Any, Any]:
    """Two monitors; the first one follows itself, the second one does not."""
    random, series = np.random.default_rng(0), np.zeros((count, 2))
    for i in range(1, count):
        series[i] = 0.9 * series[i - 1] * (1, 0) + random.normal(size=2)
    return series


def test_a_monitor_that_follows_itself_is_refused_unless_its_residual_is_watched() -> None:
    series, tiny = wandering(1000), load("tiny.py:Tiny", Path(__file__).parent)
    weather: type[Workload] = type("Weather", (type(tiny),), {"modes": {"mean": "residual"}})
    channels = sketch.baseline(("mean", "spread"), series, labels=2)
    with pytest.raises(ConfigError, match="monitor 'mean': values follow the ones before"):
        with_residuals(tiny, channels, series)
    mean, spread = with_residuals(weather(), channels, series)
    assert 0.85 < mean.lag < 0.95 and sum(mean.counts) == 999 and spread == channels[1]
