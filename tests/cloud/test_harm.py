import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from skerry_cloud.retrain.harm import guessed, proven
from skerry_edge.observe.sampling import FACTORS
from skerry_shared import sketch
from skerry_shared.telemetry import AUDIT, UNCERTAIN


@pytest.mark.parametrize("accuracy", [0.5, 0.9])
def test_the_interval_holds_the_truth_at_every_number_of_labels_at_once(accuracy: float) -> None:
    """A bound never gives way once it was reached, so the last interval tells whether any one missed the truth: of 100
    streams at most 10 (and noise) at alpha 0.1."""
    rng, left = np.random.default_rng(1), 0
    for _ in range(100):
        right = rng.random(150) < accuracy
        found = proven(right, np.full(150, 0.5), np.full(150, 0.5), 0.1)
        left += not found.low <= accuracy <= found.high
    assert left <= stats.binom.ppf(0.99, 100, 0.1)


def test_the_inverse_of_the_inclusion_probability_takes_out_the_bias_of_sampling() -> None:
    """Wrong answers are sampled four times as often as right ones."""
    rng = np.random.default_rng(2)
    right = rng.random(4000) < 0.8
    probabilities = np.where(right, 0.1, 0.4)
    sampled = rng.random(4000) < probabilities
    found = proven(right[sampled], probabilities[sampled], np.full(sampled.sum(), 0.1), 0.05)
    assert found.low <= 0.8 <= found.high and abs(found.value - 0.8) < 0.05
    biased = proven(right[sampled], np.ones(sampled.sum()), np.ones(sampled.sum()), 0.05)
    assert biased.high < 0.8


def drawn(seed: int, answers: int = 10_000) -> tuple[Any, ...]:
    """Answers of which some are uncertain, and wrong more often; sampled in strata, at a rate that a budget halves.

    Confidences of all; of the samples: confidences, whether right, probabilities, audits.
    """
    rng, rate = np.random.default_rng(seed), np.repeat([0.02, 0.01], answers // 2)
    confidences = rng.beta(8, 2, answers)
    right = rng.random(answers) < confidences
    probabilities = rate * np.where(confidences < 0.65, FACTORS[UNCERTAIN], FACTORS[AUDIT])
    kept = rng.random(answers) < probabilities
    return confidences, right, *(of[kept] for of in (confidences, right, probabilities, rate))


def test_with_strata_the_interval_still_holds_at_every_number_of_labels_at_once() -> None:
    left, alpha = 0, 0.1
    for seed in range(100):
        _, right, _, told, probabilities, audits = drawn(seed)
        found = proven(told[:100], probabilities[:100], audits[:100], alpha)
        left += not found.low <= right.mean() <= found.high
    assert left <= stats.binom.ppf(0.99, 100, alpha)


def test_means_over_all_answers_are_estimated_without_bias_from_strata_and_with_bias_without_weights() -> None:
    """By the same figure of all answers, which is known here."""
    errors, biases, held = [], [], 0
    for seed in range(30):
        confidences, right, sampled, told, probabilities, audits = drawn(seed)
        (channel,) = sketch.baseline(["confidence"], confidences[:, None], labels=2)
        same, everything = np.ones(len(told)), np.ones(len(right))
        truth = np.array([guessed(0.8, channel, confidences, everything).value, right.mean()])
        guess = guessed(0.8, channel, sampled, probabilities)
        held += guess.low <= truth[0] <= guess.high
        errors.append((guess.value, proven(told, probabilities, audits, 0.05).value) - truth)
        biases.append((guessed(0.8, channel, sampled, same).value, proven(told, same, same, 0.05).value) - truth)
    noise = np.std(errors, axis=0) / math.sqrt(len(errors))
    assert (abs(np.mean(errors, axis=0)) < 3 * noise).all()
    assert (np.mean(biases, axis=0) < -0.05).all()
    assert held >= stats.binom.ppf(0.01, 30, 0.95)


def test_two_hundred_labels_prove_a_loss_of_ten_points() -> None:
    rng = np.random.default_rng(3)
    highs = [proven(rng.random(200) < 0.75, np.ones(200), np.ones(200), 0.05).high for _ in range(20)]
    assert np.mean(np.array(highs) < 0.88) > 0.8


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.floats(0.01, 1))
def test_intervals_are_intervals_and_shrink(right: list[bool], probability: float) -> None:
    alike = [probability] * len(right)
    found = proven(right, alike, alike, 0.05)
    assert 0 <= found.low <= found.high <= 1 and found.size == len(right)
    if right:
        assert found.low - 1e-9 <= found.value <= found.high + 1e-9
        fewer = proven(right[:-1], alike[:-1], alike[:-1], 0.05)
        assert found.high <= max(fewer.high, found.value)


def test_a_fall_of_confidence_is_guessed_to_be_one_of_accuracy() -> None:
    rng = np.random.default_rng(4)
    usual = rng.beta(8, 2, 3000)
    (channel,) = sketch.baseline(["confidence"], usual[:, None], labels=2)
    alike = np.full(1000, 0.05)
    same = guessed(0.9, channel, rng.beta(8, 2, 1000), alike)
    lower = guessed(0.9, channel, rng.beta(8, 2, 1000) - 0.2, alike)
    assert same.low < 0.9 < same.high and same.high - same.low < 0.03
    assert lower.value == pytest.approx(same.value - 0.2, abs=0.02)
    assert math.isnan(guessed(0.9, channel, np.empty(0), np.empty(0)).value)
