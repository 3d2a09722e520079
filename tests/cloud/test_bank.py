import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.drift.bank import Bank

WEIGHTS = np.log([0.5, 0.5])
spans = st.tuples(st.floats(0, 1000), st.floats(0.1, 100)).map(lambda at: (at[0], at[0] + at[1]))


def take(bank: Bank[str], key: str, gains: list[float], start: float, end: float) -> None:
    counts = np.array([[1, 2]])
    bank.take(np.array([bank.row(key)]), np.array([gains]), counts, np.array([start]), np.array([end]))


@given(st.lists(spans, max_size=20))
def test_without_evidence_r_is_the_time_that_windows_covered_at_most_once(windows: list[tuple[float, float]]) -> None:
    """In any order, overlapping or late: never more than the time that passed, else the stated rate would not hold."""
    bank: Bank[str] = Bank(WEIGHTS, 2)
    for start, end in windows:
        take(bank, "a", [0.0, 0.0], start, end)
    if windows:
        starts, ends = zip(*windows, strict=True)
        assert np.exp(bank.statistic[0]) <= max(ends) - min(starts) + 1e-9


def test_a_late_window_is_evidence_but_adds_no_time() -> None:
    bank: Bank[str] = Bank(WEIGHTS, 2)
    take(bank, "a", [0.0, 0.0], 60, 120)
    take(bank, "a", [0.0, 0.0], 0, 60)
    np.testing.assert_allclose(np.exp(bank.statistic[0]), 60)
    take(bank, "a", [2.0, 2.0], 0, 60)
    np.testing.assert_allclose(bank.statistic[0], np.log(60) + 2)


def test_the_change_began_where_the_evidence_did() -> None:
    bank: Bank[str] = Bank(WEIGHTS, 2)
    for minute, gain in enumerate([-1.0, -1.0, 2.0, 2.0]):
        take(bank, "a", [gain, -gain - 3], minute * 60, minute * 60 + 60)
    assert bank.best("a") == 0 and bank.since(np.array([0])) == [120]
    assert bank.counts.tolist()[0] == [2, 4]


@given(st.lists(st.sampled_from("abcdefghijkl"), min_size=1), st.sets(st.sampled_from("abcdefghijkl")))
def test_rows_come_and_go_and_keep_their_state(came: list[str], gone: set[str]) -> None:
    bank: Bank[str] = Bank(WEIGHTS, 2)
    for key in dict.fromkeys(came):
        take(bank, key, [ord(key), 0.0], 0, 60)
    for key in gone & bank.rows.keys():
        bank.remove(key)
    copy: Bank[str] = Bank(WEIGHTS, 2)
    copy.load(sorted(bank.rows, key=bank.rows.__getitem__), bank.arrays())
    for one in (bank, copy):
        assert one.rows.keys() == set(came) - gone
        assert all(one.log_r[place, 0] == np.log(60) + ord(key) for key, place in one.rows.items())
