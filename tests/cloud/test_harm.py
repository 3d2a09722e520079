import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from skerry_cloud.retrain.harm import guessed, proven
from skerry_shared import sketch


@pytest.mark.parametrize("accuracy", [0.5, 0.9])
def test_the_interval_holds_the_truth_at_every_number_of_labels_at_once(accuracy: float) -> None:
    """A bound never gives way once it was reached, so the last interval tells whether any one missed the truth: of 100
    streams at most 10 (and noise) at alpha 0.1."""
    rng, left = np.random.default_rng(1), 0
    for _ in range(100):
        right = rng.random(150) < accuracy
        found = proven(right, np.full(150, 0.5), 0.1)
        left += not found.low <= accuracy <= found.high
    assert left <= stats.binom.ppf(0.99, 100, 0.1)


def test_the_inverse_of_the_inclusion_probability_takes_out_the_bias_of_sampling() -> None:
    """Wrong answers are sampled four times as often as right ones."""
    rng = np.random.default_rng(2)
    right = rng.random(4000) < 0.8
    probabilities = np.where(right, 0.1, 0.4)
    sampled = rng.random(4000) < probabilities
    found = proven(right[sampled], probabilities[sampled], 0.05)
    assert found.low <= 0.8 <= found.high and abs(found.value - 0.8) < 0.05
    biased = proven(right[sampled], np.ones(sampled.sum()), 0.05)
    assert biased.high < 0.8


def test_two_hundred_labels_prove_a_loss_of_ten_points() -> None:
    rng = np.random.default_rng(3)
    highs = [proven(rng.random(200) < 0.75, np.ones(200), 0.05).high for _ in range(20)]
    assert np.mean(np.array(highs) < 0.88) > 0.8


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.floats(0.01, 1))
def test_intervals_are_intervals_and_shrink(right: list[bool], probability: float) -> None:
    found = proven(right, [probability] * len(right), 0.05)
    assert 0 <= found.low <= found.high <= 1 and found.size == len(right)
    if right:
        assert found.low - 1e-9 <= found.value <= found.high + 1e-9
        fewer = proven(right[:-1], [probability] * (len(right) - 1), 0.05)
        assert found.high <= max(fewer.high, found.value)


def test_a_fall_of_confidence_is_guessed_to_be_one_of_accuracy() -> None:
    rng = np.random.default_rng(4)
    usual = rng.beta(8, 2, 3000)
    (channel,) = sketch.baseline(["confidence"], usual[:, None], labels=2)
    same, lower = guessed(0.9, channel, rng.beta(8, 2, 1000)), guessed(0.9, channel, rng.beta(8, 2, 1000) - 0.2)
    assert same.low < 0.9 < same.high and same.high - same.low < 0.03
    assert lower.value == pytest.approx(same.value - 0.2, abs=0.02)
    assert math.isnan(guessed(0.9, channel, np.empty(0)).value)
