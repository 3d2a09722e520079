"""The promise of the test is statistical: seeded simulations, whole fleets at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skerry_cloud.drift.tilts import Floats, Tilts, advance, log_mean, smooth

BINS = 16


def references(rng: np.random.Generator, size: int) -> tuple[Tilts, Floats]:
    """A baseline of ``size`` values in equally filled bins, and what the true shares of the bins then are."""
    filled = [size // BINS] * BINS
    return Tilts.of([*filled, 0]), np.append(rng.dirichlet(filled), 0.0)


def run(tilts: Tilts, shares: Floats, rng: np.random.Generator, windows: int, values: int, streams: int) -> Floats:
    """log of the statistic of each stream (rows) after each window (columns)."""
    log_r = np.full((streams, len(tilts.words)), -np.inf)
    statistics = np.empty((streams, windows))
    for window in range(windows):
        counts = rng.multinomial(values, shares, size=streams)
        log_r = advance(log_r, tilts.log_likelihoods(counts))
        statistics[:, window] = log_mean(log_r)
    return statistics


@pytest.mark.parametrize("size", [96, 304, 1008, 5008])
@pytest.mark.parametrize("values", [30, 300])
def test_without_a_change_false_alarms_are_no_more_than_stated(size: int, values: int) -> None:
    """Within T windows at most T/A of the streams alarm: with T = A/5 at most a fifth, 20 references of 20 streams."""
    rng, run_length = np.random.default_rng(7), 500
    alarms = [
        (run(*references(rng, size), rng, run_length // 5, values, 20).max(axis=1) >= np.log(run_length)).mean()
        for _ in range(20)
    ]
    assert np.mean(alarms) <= 1 / 5


def test_a_small_reference_would_cry_wolf_without_its_charge() -> None:
    """The charge is what keeps the promise: without it the same streams alarm."""
    rng = np.random.default_rng(7)
    tilts, shares = references(rng, 300)
    bare = Tilts(tilts.words, tilts.bins, tilts.log_ratios, np.zeros_like(tilts.charges))
    alarmed = run(bare, shares, rng, 100, 300, 20).max(axis=1) >= np.log(500)
    assert alarmed.mean() > 1 / 2


def shifted(shares: Floats, rng: np.random.Generator, shift: float, spread: float) -> Floats:
    """Shares of the bins after normal values moved by ``shift`` and were scaled by ``spread``."""
    values = np.sort(rng.normal(size=200_000))
    edges = values[(np.cumsum(shares[:-2]) * len(values)).astype(int).clip(max=len(values) - 1)]
    moved = np.searchsorted(edges, values * spread + shift, side="right")
    return np.append(np.bincount(moved, minlength=BINS) / len(values), 0.0)


@pytest.mark.parametrize(
    ("shift", "spread", "within", "words"),
    [
        (0.5, 1.0, 5, {"higher"}),
        (-0.5, 1.0, 5, {"lower"}),
        (0.0, 1.6, 6, {"wider", "more extreme"}),
        (0.0, 0.6, 6, {"narrower"}),
    ],
)
def test_a_real_change_is_found_soon_and_named(shift: float, spread: float, within: int, words: set[str]) -> None:
    rng = np.random.default_rng(11)
    tilts, shares = references(rng, 2000)
    statistics = run(tilts, shifted(shares, rng, shift, spread), rng, 15, 100, 50)
    found = (statistics >= np.log(1000)).argmax(axis=1) + 1
    assert np.median(found) <= within and (statistics.max(axis=1) >= np.log(1000)).all()

    log_r = np.full(len(tilts.words), -np.inf)
    for _ in range(10):
        counts = rng.multinomial(100, shifted(shares, rng, shift, spread))
        log_r = advance(log_r, tilts.log_likelihoods(counts))
    assert tilts.words[int(log_r.argmax())] in words


def test_missing_values_are_found_and_named() -> None:
    tilts = Tilts.of([*[100] * BINS, 0])
    counts = np.array([*[6] * BINS, 5])
    log_r = np.full(len(tilts.words), -np.inf)
    for _ in range(3):
        log_r = advance(log_r, tilts.log_likelihoods(counts))
    assert log_mean(log_r) > np.log(10_000)
    assert tilts.words[int(log_r.argmax())] == "missing"


COUNTS = st.lists(st.integers(0, 500), min_size=2, max_size=12).filter(lambda counts: sum(counts[:-1]) > 0)


@given(reference=COUNTS)
def test_every_alternative_is_a_distribution_and_has_mean_ratio_one_under_the_reference(reference: list[int]) -> None:
    tilts, p = Tilts.of(reference), smooth(reference)
    ratios = np.exp(tilts.log_ratios)
    np.testing.assert_allclose(ratios @ p, 1.0, rtol=1e-9)
    assert (ratios >= 0).all() and (tilts.charges >= 0).all()
    assert len(tilts.words) == len(tilts.bins) == len(ratios)


@given(data=st.data(), reference=COUNTS)
def test_windows_of_one_moment_add_up(data: st.DataObject, reference: list[int]) -> None:
    """Counts from two processes may be added before or their likelihoods after: the same evidence."""
    tilts = Tilts.of(reference)
    size = len(reference)
    one, two = (np.array(data.draw(st.lists(st.integers(0, 99), min_size=size, max_size=size))) for _ in range(2))
    together, apart = tilts.log_likelihoods(one + two), tilts.log_likelihoods(one) + tilts.log_likelihoods(two)
    np.testing.assert_allclose(together, apart, rtol=1e-9, atol=1e-9)


def test_the_mean_does_not_overflow() -> None:
    huge: NDArray[np.float64] = np.array([[1e6, 1e6], [-np.inf, -np.inf], [0.0, -np.inf]])
    np.testing.assert_allclose(log_mean(huge), [1e6, -np.inf, np.log(0.5)])
