import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skerry_cloud.drift.watch import Alarm, Watch, summary
from skerry_shared import sketch

NAMES = ("brightness", "contrast", "predicted class")
RNG = np.random.default_rng(3)
REFERENCE = RNG.normal(size=(3000, 2))
BASELINE = sketch.baseline(NAMES, np.column_stack([REFERENCE, RNG.integers(0, 3, 3000)]), labels=3)
BASELINES = {("digits", 1): BASELINE}
A = 1000

Change = Callable[[np.ndarray[Any, Any]], None]


def unchanged(_: np.ndarray[Any, Any]) -> None: ...


def darker(values: np.ndarray[Any, Any]) -> None:
    values[:, 0] -= 0.7


def broken(values: np.ndarray[Any, Any]) -> None:
    values[::5, 1] = math.nan


def one_class(values: np.ndarray[Any, Any]) -> None:
    values[:, 2] = 2


def window(start: float, change: Change = unchanged, device: str = "d1", release: int = 1) -> list[dict[str, Any]]:
    values = np.column_stack([RNG.normal(size=(100, 2)), RNG.integers(0, 3, 100)])
    change(values)
    where = {"device": device, "workload": "digits", "release": release, "start": start, "end": start + 10}
    counts = (sketch.count(values[:, i], channel.edges).tolist() for i, channel in enumerate(BASELINE))
    return [{**where, "channel": name, "counts": count} for name, count in zip(NAMES, counts, strict=True)]


def windows(count: int, start: float = 0, **which: Any) -> list[dict[str, Any]]:
    return [row for number in range(count) for row in window(start + 10 * number, **which)]


@pytest.mark.parametrize(
    ("change", "channel", "direction"),
    [
        (darker, "brightness", "lower"),
        (broken, "contrast", "missing"),
        (one_class, "predicted class", "more often from 1.5"),
    ],
)
def test_an_alarm_names_device_channel_direction_and_time(change: Change, channel: str, direction: str) -> None:
    watch = Watch(A)
    quiet = [row for device in ("d1", "d2") for row in windows(20, device=device)]
    assert watch.fold(quiet, BASELINES) == []

    alarms = watch.fold([*windows(10, 200, change=change), *windows(10, 200, device="d2")], BASELINES)

    (alarm,) = alarms
    assert (alarm.device, alarm.workload, alarm.release, alarm.run_length) == ("d1", "digits", 1, A)
    assert alarm.channels[0].channel == channel and alarm.channels[0].evidence >= math.log10(A)
    assert alarm.channels[0].direction == direction
    assert 190 <= alarm.since <= 210 and 210 <= alarm.at <= 250
    assert alarm.windows == (alarm.at - 10) / 10 + 1
    text = summary(alarm)
    assert text.startswith("d1: digits release 1 drifts since 1970-01-01 00:03") and direction in text


def test_one_alarm_until_reset() -> None:
    watch = Watch(A)
    assert len(watch.fold(windows(10, change=darker), BASELINES)) == 1
    assert watch.fold(windows(10, 100, change=darker), BASELINES) == []
    watch.reset("d1", "digits", 1)
    assert watch.evidence("d1", "digits", 1) == -math.inf
    assert watch.fold(windows(5, 200), BASELINES) == []
    (again,) = watch.fold(windows(10, 300, change=darker), BASELINES)
    assert again.since >= 250
    watch.reset("nobody", "digits", 1)


def test_rows_count_once_in_any_order_and_grouping() -> None:
    rows = windows(30)
    once, shuffled, piecemeal = Watch(A), Watch(A), Watch(A)
    once.fold(rows, BASELINES)
    mixed = rows + rows
    random.Random(1).shuffle(mixed)
    shuffled.fold(mixed, BASELINES)
    for row in rows:
        piecemeal.fold([row], BASELINES)
        piecemeal.fold([row], BASELINES)
    expected = once.evidence("d1", "digits", 1)
    assert shuffled.evidence("d1", "digits", 1) == expected
    assert piecemeal.evidence("d1", "digits", 1) == pytest.approx(expected)


def test_what_has_no_baseline_changes_nothing() -> None:
    watch = Watch(A)
    strange = [row | {"channel": "smell"} for row in window(0, darker)]
    misfit = [row | {"counts": [1, 2]} for row in window(10, darker)]
    empty = [row | {"counts": [0] * len(row["counts"])} for row in window(20)]
    assert watch.fold([*windows(9, release=2, change=darker), *strange, *misfit, *empty], BASELINES) == []
    assert watch.evidence("d1", "digits", 1) == watch.evidence("d1", "digits", 2) == -math.inf


def test_quiet_fleets_stay_quiet() -> None:
    """200 windows of 30 devices at run length 10,000: at most 30 · 200 / 10,000 alarms on average."""
    watch, alarms = Watch(10_000), list[Alarm]()
    for device in range(30):
        alarms += watch.fold(windows(200, device=f"d{device}"), BASELINES)
    assert len(alarms) <= 2
