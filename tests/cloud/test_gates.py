"""The gates let good variants through and name what is wrong with bad ones, as often as they promise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skerry_cloud.compress.gates import Evidence, fall, judge, loss
from skerry_cloud.compress.study import Figures, Goal
from skerry_cloud.paired import Answered

Mask = NDArray[np.bool_]
GOAL = Goal(max_drop=1.0, max_slice_drop=5.0)
FIGURES = Figures(0.92, 0.5, 100_000, 0.1, 0.25, "")


def answers(rows: int, lost: float, won: float = 0.0, seed: int = 0, right: float = 0.93) -> Answered:
    """A champion that is right this often, and a candidate that loses and wins these shares of rows."""
    random = np.random.default_rng(seed)
    champion = random.random(rows) < right
    draw = random.random(rows)
    candidate = np.where(champion, draw >= lost / right, draw < won / (1 - right))
    return Answered(champion, candidate)


def evidence(rows: int = 6000, **changes: Any) -> Evidence:
    clean = answers(rows, lost=0.003, won=0.002)
    fine = Evidence(False, clean, {"dark": np.arange(rows) % 3 == 0}, {"noise": clean}, 1e-3, 0.05)
    return replace(fine, **changes)


def failed(evidence: Evidence, goal: Goal = GOAL) -> list[tuple[str, str]]:
    return [(v.gate, v.subject) for v in judge(evidence, FIGURES, goal) if not v.passed]


def test_a_good_variant_passes_every_gate() -> None:
    verdicts = judge(evidence(), FIGURES, Goal(1.0, 5.0, 200_000, 0.2))
    assert [v.gate for v in verdicts] == ["accuracy", "slice", "corruption", "golden", "size", "latency"]
    assert all(v.passed for v in verdicts)


def test_one_that_loses_too_much_is_stopped_with_the_figures() -> None:
    verdict = judge(evidence(clean=answers(6000, lost=0.03)), FIGURES, GOAL)[0]
    assert not verdict.passed
    assert verdict.bound > verdict.value > 2.5
    assert "at 95.00% confidence on 6000 rows; allowed 1" in verdict.reason


def test_one_that_fails_a_minority_is_stopped_there_though_it_passes_overall() -> None:
    clean, dark = answers(20_000, lost=0.0), np.arange(20_000) % 40 == 0
    clean.candidate[dark & (np.arange(20_000) % 80 == 0)] = False  # half of a fortieth
    unfair = evidence(20_000, clean=clean, slices={"dark": dark, "light": ~dark}, corrupted={})
    assert failed(unfair, Goal(2.0, 5.0)) == [("slice", "dark")]


def test_one_that_noise_throws_more_than_float_is_stopped_and_names_both_falls() -> None:
    clean = answers(6000, lost=0.003, won=0.002)
    noisy = Answered(answers(6000, 0, seed=1, right=0.8).champion, answers(6000, 0, seed=1, right=0.65).champion)
    brittle = evidence(clean=clean, corrupted={"noise": noisy})
    assert failed(brittle) == [("corruption", "noise")]
    assert "float by" in next(v.reason for v in judge(brittle, FIGURES, GOAL) if not v.passed)


def test_robustness_is_asked_relative_to_float() -> None:
    both = answers(6000, 0, seed=1, right=0.5).champion
    assert failed(evidence(corrupted={"fog": Answered(both, both)})) == []


@pytest.mark.parametrize("apart", [0.2, float("nan"), float("inf")])
def test_kernels_that_disagree_are_stopped(apart: float) -> None:
    assert failed(evidence(apart=apart)) == [("golden", "")]


def test_limits_of_size_and_latency_hold() -> None:
    assert failed(evidence(), Goal(1.0, 5.0, max_bytes=99_999, max_latency_ms=0.09)) == [("size", ""), ("latency", "")]


def test_a_slice_without_rows_does_not_pass() -> None:
    assert failed(evidence(slices={"night": np.zeros(6000, bool)})) == [("slice", "night")]


def test_too_few_rows_are_said_to_be_too_few() -> None:
    verdict = judge(evidence(57, clean=answers(57, 0.0), slices={}, corrupted={}), FIGURES, GOAL)[0]
    assert not verdict.passed
    assert "so few rows cannot show less than 2.79" in verdict.reason


def test_a_model_that_answers_the_same_needs_no_statistics() -> None:
    verdicts = judge(evidence(20, same=True), FIGURES, GOAL)
    assert [(v.gate, v.passed) for v in verdicts] == [("accuracy", True), ("golden", True)]


@given(st.integers(50, 5000), st.floats(0, 0.2), st.floats(0, 0.07), st.integers(0, 1000))
def test_a_bound_is_above_the_value_and_falls_with_confidence(rows: int, lost: float, won: float, seed: int) -> None:
    found = answers(rows, lost, won, seed)
    sure, unsure = (loss("accuracy", "", found, 1.0, alpha) for alpha in (0.01, 0.2))
    assert sure.value == unsure.value
    assert sure.bound > unsure.bound
    spread = [fall("noise", found, answers(rows, lost, won, seed + 1), 1.0, alpha).bound for alpha in (0.01, 0.2)]
    assert spread[0] > spread[1]


@settings(max_examples=5)
@given(st.integers(0, 2**32 - 1))
def test_a_variant_beyond_its_budget_passes_as_rarely_as_promised(seed: int) -> None:
    """400 variants that each lose exactly what is allowed: 5 % may pass, give or take the luck of 400 draws."""
    random, rows = np.random.default_rng(seed), 3000
    lost, won = random.binomial(rows, 0.02, 400), random.binomial(rows, 0.01, 400)
    passed = sum(loss("accuracy", "", _exactly(rows, *pair), 1.0, 0.05).passed for pair in zip(lost, won, strict=True))
    assert passed / 400 < 0.05 + 4 * (0.05 * 0.95 / 400) ** 0.5


def _exactly(rows: int, lost: int, won: int) -> Answered:
    champion = np.arange(rows) >= won
    return Answered(champion, np.where(np.arange(rows) < won, True, np.arange(rows) >= won + lost))
