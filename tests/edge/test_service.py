from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_edge.board import Condition
from skerry_edge.config import Protect
from skerry_edge.observe.arrow import decode
from skerry_edge.observe.service import KEPT, LOOK_S, ServiceLog
from skerry_edge.observe.span import Span
from skerry_edge.protect.guard import Guard
from skerry_edge.protect.judge import Bounds
from skerry_shared import latency, telemetry

pytestmark = pytest.mark.arm64

SCORES = np.zeros((1, 2), np.float32)


class World:
    def __init__(self) -> None:
        self.now, self.told = 100.0, list[dict[str, list[Any]]]()
        self.condition = Condition(None, False, "")
        now = lambda: self.now  # noqa: E731
        self.log = ServiceLog(lambda: self.condition, self._sink, Span(60.0, now, now))

    def guard(self, workload: str, release: int) -> Guard:
        bounds: Bounds = Protect()
        guard = Guard(2, bounds)
        self.log.watch(workload, release, guard)
        return guard

    def pass_time(self, seconds: float) -> None:
        """Ticks come once a second."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            self.log.tick()

    def _sink(self, table: str, payload: bytes) -> None:
        assert table == "service"
        self.told.append(decode(table, telemetry.unpack(payload)))


def test_a_window_tells_how_models_served_and_how_the_board_fared() -> None:
    world = World()
    tiny, ear = world.guard("tiny", 1), world.guard("ear", 4)
    for _ in range(300):
        tiny.answered(0.002, SCORES)
    tiny.failed(0.5)
    ear.answered(0.1, np.zeros((7, 2), np.float32))
    world.condition = Condition(61.5, True, "15W")
    world.pass_time(2 * LOOK_S)
    world.condition = Condition(40.0, False, "MAXN")
    world.pass_time(60 - 2 * LOOK_S)
    (told,) = world.told
    assert (told["workload"], told["release"], told["answered"], told["errors"]) == (
        ["ear", "tiny"],
        [4, 1],
        [7, 300],
        [0, 1],
    )
    assert (told["start"], told["end"]) == ([100.0] * 2, [160.0] * 2)
    assert (told["hottest_c"], told["throttled_s"], told["power_mode"]) == ([61.5] * 2, [2 * LOOK_S] * 2, ["MAXN"] * 2)
    assert [sum(counts) for counts in told["latency"]] == [1, 301]
    assert latency.quantile_s(np.array(told["latency"][1]), 0.5) == pytest.approx(0.002, rel=0.19)


def test_a_model_that_did_not_run_has_no_row_and_a_replaced_one_has_its_last() -> None:
    world = World()
    first = world.guard("tiny", 1)
    world.pass_time(60)
    assert world.told == []
    first.answered(0.001, SCORES)
    world.guard("tiny", 2).answered(0.001, SCORES)
    first.answered(0.001, SCORES)  # was in flight
    world.log.flush()
    (told,) = world.told
    assert (told["release"], told["answered"], told["hottest_c"]) == ([1, 2], [2, 1], [telemetry.NO_HEAT] * 2)
    again = world.guard("tiny", 1)
    again.answered(0.001, SCORES)
    world.log.flush()
    assert world.told[1]["release"] == [1]


def test_releases_that_served_long_ago_are_forgotten() -> None:
    world = World()
    guards = [world.guard("tiny", release) for release in range(KEPT + 1)]
    for guard in guards:
        guard.answered(0.001, SCORES)
    world.log.flush()
    assert world.told[0]["release"] == list(range(1, KEPT + 1))


times = st.lists(st.floats(0, 1e4), min_size=1, max_size=50)


@given(times, times, st.floats(0.01, 1))
def test_histograms_add_up_and_their_quantiles_are_near(one: list[float], other: list[float], q: float) -> None:
    both = latency.count(np.array(one)) + latency.count(np.array(other))
    np.testing.assert_array_equal(both, latency.count(np.array(one + other)))
    exact = float(np.quantile(one + other, q, method="inverted_cdf"))
    found = latency.quantile_s(both, q)
    assert found >= min(exact, latency.EDGES_S[-1])
    if exact >= latency.EDGES_S[0]:
        assert found <= exact * 2**0.25 * (1 + 1e-9)


def test_nothing_counted_has_no_latency() -> None:
    assert latency.quantile_s(np.zeros(latency.BINS, np.int64), 0.5) == 0
