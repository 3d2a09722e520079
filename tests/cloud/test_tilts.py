"""The promise of the test is statistical: seeded simulations, whole fleets at once."""

from collections.abc import Sequence
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from skerry_cloud.drift.bank import Bank, log_sum
from skerry_cloud.drift.tilts import Floats, Tilts, nearest, smooth
from skerry_shared.release import Channel

BINS = 16


def channel(counts: Sequence[int], sides: int = 1) -> Channel:
    return Channel("c", tuple(map(float, range(len(counts) - sides - 1))), tuple(counts))


def references(rng: np.random.Generator, size: int, tolerance: float = 0.0) -> tuple[Tilts, Floats]:
    """A baseline of ``size`` values in equally filled bins, and what the true shares of the bins then are."""
    filled = [size // BINS] * BINS
    return Tilts.of(channel([*filled, 0]), tolerance), np.append(rng.dirichlet(filled), 0.0)


def run(
    tilts: Tilts,
    shares: Floats,
    rng: np.random.Generator,
    windows: int,
    values: int,
    streams: int,
    pooled: bool = False,
) -> Floats:
    """log of the statistic of each stream (rows) after each window (columns) of a second, as a device's or a pool's."""
    bank: Bank[int] = Bank(tilts.log_weights, len(shares), None if pooled else tilts)
    places = np.array([bank.row(stream) for stream in range(streams)])
    statistics = np.empty((streams, windows))
    for window in range(windows):
        counts = rng.multinomial(values, shares, size=streams)
        starts = np.full(streams, float(window))
        bank.take(places, tilts.log_likelihoods(counts), counts, starts, starts + 1)
        statistics[:, window] = bank.statistic[:streams]
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


def test_a_device_alarms_no_more_than_stated_where_windows_hold_more_than_the_reference() -> None:
    """A hundredth may, in 60 windows; a pool, which is charged for each value and nothing else, does a bit more."""

    def alarmed(pooled: bool) -> float:
        rng = np.random.default_rng(7)
        highest = [run(*references(rng, 96), rng, 60, 160, 4, pooled).max(axis=1) for _ in range(200)]
        return float((np.array(highest) >= np.log(60 / 0.01)).mean())

    assert alarmed(pooled=False) <= min(0.01, alarmed(pooled=True))


def test_a_small_reference_would_cry_wolf_without_its_charge() -> None:
    """The charge is what keeps the promise: without it the same streams alarm."""
    rng = np.random.default_rng(7)
    tilts, shares = references(rng, 300)
    bare = replace(tilts, log_ratios=tilts.log_ratios + tilts.charges[:, None])
    alarmed = run(bare, shares, rng, 100, 300, 20, pooled=True).max(axis=1) >= np.log(500)
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

    counts = rng.multinomial(1000, shifted(shares, rng, shift, spread))
    assert tilts.words[int(tilts.log_likelihoods(counts).argmax())] in words


def test_what_the_stream_has_shown_before_makes_up_for_a_small_reference() -> None:
    rng = np.random.default_rng(5)
    tilts, shares = references(rng, 304)
    changed = shifted(shares, rng, 0.25, 1.0)
    known, new = rng.multinomial(3000, shares), rng.multinomial(300, changed)
    fresh = np.full(len(tilts.words), 300.0)
    knowing, not_knowing = tilts.by_chance(known + new, fresh), tilts.by_chance(new, fresh)
    strongest = int(tilts.log_likelihoods(new).argmax())
    assert tilts.words[strongest] == "higher" and knowing[strongest] < not_knowing[strongest] / 2


def test_what_chance_explains_is_the_mean_over_all_draws() -> None:
    """Beside the exact mean, for small changes; and exactly none, or all of it, where none or all is drawn."""
    reference, total = np.array([12] * 8 + [0]), np.array([3, 4, 6, 4, 6, 6, 8, 11, 0])
    tilts = Tilts.of(channel(reference.tolist()))
    ratios = tilts.log_ratios + tilts.charges[:, None]
    unbounded = np.full_like(tilts.charges, 100.0)
    tilts = replace(tilts, reference=reference, charges=unbounded, log_ratios=ratios - 100.0)
    small = np.abs(ratios[:, :8]).max(axis=1) < 0.5
    assert small.sum() > 10
    for drawn in (1, 10, 25, 48):
        paid = tilts.by_chance(total, np.full(len(small), float(drawn)))[small]
        expected = np.array([_log_mean(reference + total, row, drawn) for row in np.exp(ratios[small])])
        np.testing.assert_allclose(paid, np.maximum(expected, 0.0), atol=0.1)
    assert not tilts.by_chance(total, np.zeros(len(small))).any()


def _log_mean(counts: NDArray[np.integer], ratios: Floats, drawn: int) -> float:
    """log of the mean of the product of ``ratios`` over all draws without replacement: of Π (1 + r·z)^counts the
    coefficient of z^drawn, by how many draws there are."""
    ways = np.array([1.0])
    for count, ratio in zip(counts.tolist(), ratios.tolist(), strict=True):
        ways = np.convolve(ways, [comb(count, k) * ratio**k for k in range(count + 1)])[: drawn + 1]
    return float(np.log(ways[drawn] / comb(int(counts.sum()), drawn)))


def test_missing_values_are_found_and_named() -> None:
    tilts = Tilts.of(channel([*[100] * BINS, 0]))
    evidence = tilts.log_likelihoods(3 * np.array([*[6] * BINS, 5]))
    assert log_sum(evidence + tilts.log_weights) > np.log(10_000)
    assert tilts.words[int(evidence.argmax())] == "missing"


COUNTS = st.lists(st.integers(0, 500), min_size=2, max_size=12).filter(lambda counts: sum(counts[:-1]) > 0)


@settings(deadline=None)
@given(reference=COUNTS, tolerance=st.sampled_from([0.0, 0.01, 0.1]))
def test_evidence_has_mean_one_at_most_under_all_that_is_tolerated(reference: list[int], tolerance: float) -> None:
    """Under the reference, and under each that replaces the tolerated share by one bin: the corners of the null."""
    tilts, p = Tilts.of(channel(reference), tolerance), smooth(reference)
    corners = (1 - tolerance) * p + tolerance * np.eye(len(p))
    means = np.exp(tilts.log_ratios) @ np.vstack([p, corners]).T
    assert (means <= 1 + 1e-9).all()
    np.testing.assert_allclose(np.exp(tilts.log_weights).sum(), 1.0)
    assert len(tilts.words) == len(tilts.bins) == len(tilts.log_ratios)


def distributions(size: int) -> st.SearchStrategy[Floats]:
    positive = hnp.arrays(np.float64, size, elements=st.floats(1e-6, 1.0))
    return positive.map(lambda weights: weights / weights.sum())


@given(p=distributions(6), q=distributions(6), tolerance=st.floats(0.001, 0.9))
def test_the_nearest_tolerated_distribution_is_one_and_none_is_nearer(p: Floats, q: Floats, tolerance: float) -> None:
    found = nearest(p, q, tolerance)
    np.testing.assert_allclose(found.sum(), 1.0)
    assert (found >= (1 - tolerance) * p - 1e-12).all()
    for corner in (1 - tolerance) * p + tolerance * np.eye(6):
        assert (q / found) @ corner <= 1 + 1e-9  # no step towards a corner brings it nearer


@settings(deadline=None)
@given(data=st.data(), reference=COUNTS)
def test_windows_of_one_moment_add_up(data: st.DataObject, reference: list[int]) -> None:
    """Counts from two processes may be added before or their likelihoods after: the same evidence."""
    tilts = Tilts.of(channel(reference))
    size = len(reference)
    one, two = (np.array(data.draw(st.lists(st.integers(0, 99), min_size=size, max_size=size))) for _ in range(2))
    together, apart = tilts.log_likelihoods(one + two), tilts.log_likelihoods(one) + tilts.log_likelihoods(two)
    np.testing.assert_allclose(together, apart, rtol=1e-9, atol=1e-9)


def test_the_sum_does_not_overflow() -> None:
    huge: NDArray[np.float64] = np.array([[1e6, 1e6], [-np.inf, -np.inf], [0.0, -np.inf]])
    np.testing.assert_allclose(log_sum(huge), [1e6 + np.log(2), -np.inf, 0.0])
