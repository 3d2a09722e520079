from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.compress.measure import BASELINE_MAX, BASELINE_MIN, baseline_rows, calibration_rows, golden_rows


@given(st.lists(st.integers(0, 4), min_size=1, max_size=100))
def test_golden_examples_cover_all_labels_alike(labels: list[int]) -> None:
    rows = golden_rows(np.array(labels), 20)
    assert len(set(rows.tolist())) == len(rows) == min(20, len(labels))
    taken, there = Counter(labels[row] for row in rows), Counter(labels)
    most = max(taken.values())
    assert all(taken[label] == there[label] or taken[label] >= most - 1 for label in there)


@given(st.integers(0, 50), st.integers(1, 500), st.integers(2, 64))
def test_calibration_takes_recent_rows_for_half_as_far_as_they_go(new: int, old: int, count: int) -> None:
    recent = np.arange(old + new) < new
    rows = calibration_rows(recent, count)
    assert len(set(rows.tolist())) == len(rows)
    assert recent[rows].sum() == min(new, count // 2)
    assert len(rows) == recent[rows].sum() + min(old, count - recent[rows].sum())


def test_a_baseline_is_held_out_where_there_is_enough() -> None:
    split = np.array(["train"] * 3000 + ["validation", "test"] * 1000)
    rows = baseline_rows(split, np.zeros(len(split), bool))
    assert set(split[rows]) == {"validation", "test"}
    assert len(rows) == 2000


def test_a_small_baseline_is_filled_up_and_a_large_one_is_cut() -> None:
    few = np.array(["train"] * 3000 + ["test"] * 100)
    assert Counter(few[baseline_rows(few, np.zeros(3100, bool))]) == {"train": BASELINE_MIN - 100, "test": 100}
    many = np.array(["test"] * 9000)
    assert len(baseline_rows(many, np.zeros(9000, bool))) == BASELINE_MAX


def test_a_baseline_of_a_retrained_model_is_half_recent() -> None:
    split = np.array(["test"] * 3000 + ["train"] * 60 + ["test"] * 40)
    recent = np.arange(3100) >= 3000
    rows = baseline_rows(split, recent)
    assert recent[rows].sum() == 100
    assert len(rows) == 200
