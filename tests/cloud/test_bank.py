import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.drift.bank import STATE, Bank, Places
from skerry_cloud.drift.tilts import Floats

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


class Half:
    """Pays half a nat for each alternative and every value that is fresh, of the one nat that is given back."""

    refund = np.ones(2)

    def by_chance(self, _: Places, fresh: Floats) -> Floats:
        half: Floats = 0.5 * fresh
        return half


def test_a_device_pays_less_for_what_is_fresh_and_its_pool_for_each_value() -> None:
    device, pool = Bank[str](WEIGHTS, 2, Half()), Bank[str](WEIGHTS, 2)
    for minute, gain in enumerate([-4.0, 2.0, 2.0]):
        for bank in (device, pool):
            take(bank, "a", [gain, -20.0], minute * 60, minute * 60 + 60)
    assert device.fresh[0, 0] == 6 and pool.fresh[0, 0] == 6, "the change began with the second window"
    assert (device.rise[0, 0], pool.rise[0, 0], device.cusum[0, 0]) == (10.0, 4.0, 4.0)
    assert device.total[0].tolist() == [3, 6]
    assert device.statistic[0] == pytest.approx(np.log(60) + np.logaddexp.reduce([9, 10, 5]) - 3 + np.log(0.5))
    device.reset("a")
    assert not device.fresh.any() and not device.total[0].any() and not device.rise[0].any()


@given(st.permutations(range(6)), st.integers(1, 6))
def test_many_rows_at_once_are_as_one_after_the_other(order: list[int], count: int) -> None:
    """Whether their places follow one another, have gaps or come in any order."""
    rng, together, apart = np.random.default_rng(count), Bank[int](WEIGHTS, 2, Half()), Bank[int](WEIGHTS, 2, Half())
    for bank in (together, apart):
        for key in range(6):
            bank.row(key)
    for minute in range(3):
        places = np.array(order[:count] if minute else sorted(order[:count]))
        gains, counts = rng.normal(0, 3, (count, 2)), rng.integers(0, 9, (count, 2))
        starts = np.full(count, 60.0 * minute)
        together.take(places, gains, counts, starts, starts + 60)
        for i in range(count):
            one = slice(i, i + 1)
            apart.take(places[one], gains[one], counts[one], starts[one], starts[one] + 60)
    for name in STATE:
        np.testing.assert_array_equal(together.arrays()[name], apart.arrays()[name])


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
