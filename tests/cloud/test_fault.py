"""Faults and changes of the world, made on samples: a fault is named, a change of the world is not taken for one."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.drift.fault import fault
from skerry_cloud.drift.tilts import converted
from skerry_shared import sketch

Values = np.ndarray[Any, Any]
Change = Callable[[Values], Values]


def draw(seed: int, size: int) -> Values:
    """Temperatures in °C."""
    return np.random.default_rng(seed).normal(18, 6, size)


CHANNEL = sketch.baseline(["temperature"], draw(0, 3000)[:, None], labels=2)[0]


def seen(change: Change, seed: int, size: int = 200) -> str:
    return fault(CHANNEL, sketch.count(CHANNEL, change(draw(seed, size))))


def gappy(values: Values) -> Values:
    return np.where(np.arange(len(values)) % 10 == 0, math.nan, values)


def held(values: Values) -> Values:
    return np.repeat(values[::20], 20)


FAULTS: dict[str, tuple[Change, str]] = {
    "gappy": (gappy, "10% missing"),
    "gone": (lambda values: values * math.nan, "100% missing"),
    "stuck": (lambda values: np.full(len(values), values[0]), "stuck"),
    "stuck at times": (held, "stuck"),
    "saturated above": (lambda values: np.minimum(values, 21), "saturated: nothing above"),
    "saturated below": (lambda values: np.maximum(values, 14), "saturated: nothing below"),
}
WORLD: dict[str, Change] = {
    "same": lambda values: values,
    "warmer": lambda values: values + 3,
    "much warmer": lambda values: values + 15,
    "colder": lambda values: values - 9,
    "narrower": lambda values: 18 + (values - 18) * 0.4,
    "wider": lambda values: 18 + (values - 18) * 2,
    "half": lambda values: values * 0.5,
    "double": lambda values: values * 2,
    "two seasons": lambda values: np.where(np.arange(len(values)) % 2, values + 10, values - 10),
    "skewed": lambda values: 18 + np.abs(values - 18),
    "Fahrenheit, or a fire": lambda values: values * 1.8 + 32,
    "a tenth, or frost": lambda values: values / 10,
}


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(name: str, seed: int) -> None:
    change, said = FAULTS[name]
    found = seen(change, seed)
    assert found.startswith(said.partition(":")[0]) and said.rpartition(": ")[2] in found


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("name", WORLD)
def test_a_change_of_the_world_is_no_fault(name: str, seed: int) -> None:
    assert seen(WORLD[name], seed) == ""


def test_shifts_and_spreads_are_hardly_ever_taken_for_faults() -> None:
    random, wrong = np.random.default_rng(1), 0
    for seed in range(300):
        shift, spread = random.uniform(-12, 12), random.uniform(0.3, 2.5)
        moved = 18 + (draw(seed, 200) - 18) * spread + shift
        wrong += fault(CHANNEL, sketch.count(CHANNEL, moved)).startswith(("stuck", "saturated"))
    assert wrong <= 15, wrong


@given(st.floats(0.2, 5), st.floats(-20, 20))
def test_converted_shares_are_those_of_converted_values(factor: float, offset: float) -> None:
    values = draw(0, 3000)
    expected = converted(CHANNEL, factor, offset)
    assert expected.sum() == pytest.approx(1, abs=1e-6)
    now = sketch.count(CHANNEL, values * factor + offset) / len(values)
    assert np.abs(now - expected).sum() / 2 < 0.1


def test_no_values_show_nothing() -> None:
    assert fault(CHANNEL, np.zeros(len(CHANNEL.counts), np.int64)) == ""
