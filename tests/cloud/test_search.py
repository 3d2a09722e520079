"""Successive halving and the front, as pure functions."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.compress import search
from skerry_cloud.compress.search import dominates, front, point, preferred, ranked, shares, survivors, within
from skerry_cloud.compress.study import Figures, Goal

ANY = Goal(1.0, 5.0)

figures = st.builds(
    lambda accuracy, bound, size, latency: Figures(accuracy, bound, size, latency, latency / 0.5, ""),
    st.floats(0, 1), st.floats(-1, 20), st.integers(1, 10**7), st.floats(0.001, 5),
)  # fmt: skip
pools = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=4), figures, min_size=1, max_size=30)
goals = st.builds(
    Goal, st.floats(0, 10), st.floats(0, 10), st.none() | st.integers(1, 10**7), st.none() | st.floats(0.001, 5)
)


@given(pools)
def test_the_front_is_what_nothing_dominates_and_dominates_the_rest(pool: dict[str, Figures]) -> None:
    points = {name: point(each) for name, each in pool.items()}
    best = front(points)
    assert best
    assert not any(dominates(points[a], points[b]) for a in best for b in best)
    assert all(any(dominates(points[a], points[b]) for a in best) for b in points if b not in best)


@given(pools)
def test_ranking_takes_front_after_front_and_the_most_accurate_first(pool: dict[str, Figures]) -> None:
    points = {name: point(each) for name, each in pool.items()}
    order = ranked(points)
    assert sorted(order) == sorted(pool)
    place = {name: i for i, name in enumerate(order)}
    assert not any(dominates(points[b], points[a]) and place[a] < place[b] for a in pool for b in pool)
    assert points[order[0]][0] == min(points[name][0] for name in front(points))


@given(pools, goals)
def test_a_third_goes_on_and_nobody_beyond_a_hard_limit(pool: dict[str, Figures], goal: Goal) -> None:
    going = survivors(pool, goal)
    able = [name for name in pool if within(pool[name], goal)]
    assert len(going) == len(set(going)) == math.ceil(len(able) / search.ETA)
    assert set(going) <= set(able)


@given(st.integers(1, 8))
def test_each_rung_takes_three_times_the_effort(rungs: int) -> None:
    efforts = shares(rungs)
    assert len(efforts) == rungs
    assert efforts[-1] == 1
    assert all(math.isclose(after / before, search.ETA) for before, after in itertools.pairwise(efforts))


@given(pools, goals)
def test_preference_is_for_those_who_may_pass(pool: dict[str, Figures], goal: Goal) -> None:
    order = preferred(pool, goal)
    able = [name for name in pool if within(pool[name], goal)]
    hopeful = [name for name in able if pool[name].loss_bound <= goal.max_drop]
    if hopeful:
        assert sorted(order) == sorted(hopeful)
        assert pool[order[0]].latency_ratio <= min(pool[name].latency_ratio for name in hopeful) * 1.03
    else:
        assert len(order) == min(len(able), 1)


@pytest.mark.parametrize(
    ("goal", "first"),
    [
        (ANY, "small"),  # as fast as "quick" within 3 %, and smaller
        (Goal(0.1, 5.0), "exact"),
        (Goal(1.0, 5.0, max_bytes=150_000), "tiny"),
        (Goal(1.0, 5.0, max_latency_ms=0.05), None),
    ],
)
def test_who_is_asked_first(goal: Goal, first: str | None) -> None:
    pool = {
        "exact": Figures(0.93, 0.1, 700_000, 0.20, 0.40, ""),
        "quick": Figures(0.928, 0.4, 690_000, 0.10, 0.20, ""),
        "small": Figures(0.927, 0.6, 180_000, 0.102, 0.204, ""),
        "tiny": Figures(0.921, 0.99, 24_000, 0.12, 0.24, ""),
        "wrong": Figures(0.60, 34.0, 5_000, 0.09, 0.18, ""),
    }
    order = preferred(pool, goal)
    assert order[:1] == ([first] if first else [])
    assert "wrong" not in order
