"""A shadow's figures: an interval that covers as often as it says, shares that are shares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from skerry_edge.observe.arrow import decode, encode
from skerry_edge.update.shadow import Comparison, wilson

pytestmark = pytest.mark.arm64


counted = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
tops = st.sampled_from(["boot", "bag", None])
pairs = st.lists(st.tuples(st.tuples(tops, st.floats(0, 1)), st.tuples(tops, st.floats(0, 1))), max_size=60)


@given(counted)
def test_the_interval_is_scipys(case: tuple[int, int]) -> None:
    theirs = binomtest(*case).proportion_ci(0.95, method="wilson")
    assert wilson(*case) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_nothing_compared_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert Comparison().row()["candidate_p99_ms"] == 0.0


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(7).binomial(200, 0.9, 2000)
    covered = np.mean([low <= 0.9 <= high for low, high in (wilson(int(k), 200) for k in draws)])
    assert 0.93 < covered < 0.97


@given(pairs)
def test_a_comparison_adds_up(answers: list[tuple[tuple[str | None, float], tuple[str | None, float]]]) -> None:
    comparison = Comparison()
    for champion, candidate in answers:
        comparison.add(champion, candidate)
    assert comparison.agreed + comparison.failed <= comparison.compared == len(answers)
    disagreed = comparison.compared - sum(one[0] == other[0] for one, other in answers)
    assert 0 <= comparison.shift * comparison.compared <= disagreed + 1e-9
    row = comparison.row()
    assert 0 <= row["agreement_low"] <= row["agreement_high"] <= 1
    assert row["candidate_p50_ms"] <= row["candidate_p99_ms"]


def test_the_report_is_a_row_of_its_table() -> None:
    about = {"workload": "w", "release": 2, "champion": 1, "rollout": 3, "start": 1.0, "end": 2.0}
    row = about | Comparison(2, 1).row()
    assert decode("shadow", encode("shadow", {name: [value] for name, value in row.items()}))["agreed"] == [1]
