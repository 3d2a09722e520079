import math
import random
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from skerry_cloud.drift import checkpoint
from skerry_cloud.drift.finding import DEVICE, FLEET, GROUP, Alarm, Place, summary
from skerry_cloud.drift.traffic import Known, Window
from skerry_cloud.drift.watch import Watch
from skerry_shared import sketch
from skerry_shared.errors import InputError

NAMES = ("brightness", "contrast", "predicted class")
REFERENCE = np.random.default_rng(3).normal(size=(3000, 2))
LABELS = np.random.default_rng(4).integers(0, 3, 3000)
BASELINE = sketch.baseline(NAMES, np.column_stack([REFERENCE, LABELS]), labels=3)
DAYS, STEP = 1.0, 60.0  # a window a minute

Change = Callable[[np.ndarray[Any, Any]], None]


def unchanged(_: np.ndarray[Any, Any]) -> None: ...


def darker(values: np.ndarray[Any, Any]) -> None:
    values[:, 0] -= 0.7


def stuck(values: np.ndarray[Any, Any]) -> None:
    values[:, 0] = 0.3


def bit_darker(values: np.ndarray[Any, Any]) -> None:
    values[:, 0] -= 0.2


def hardly_darker(values: np.ndarray[Any, Any]) -> None:
    values[:, 0] -= 0.1


def flat(values: np.ndarray[Any, Any]) -> None:
    values[:, 1] *= 0.4


def broken(values: np.ndarray[Any, Any]) -> None:
    values[::5, 1] = math.nan


def one_class(values: np.ndarray[Any, Any]) -> None:
    values[:, 2] = 2


class Fleet:
    """Devices, some in a group, whose windows are drawn from the reference's law, changed or not."""

    def __init__(self, groups: dict[str, str], days: float = DAYS, tolerance: float = 0.01, seed: int = 5) -> None:
        self.watch, self._random = Watch(days, tolerance), np.random.default_rng(seed)
        self.known = {(device, "digits", 1): Known(BASELINE, group) for device, group in groups.items()}
        self._time = 0.0

    def windows(self, count: int, changes: Mapping[str, Change] | None = None) -> list[Window]:
        """The next ``count`` windows of all devices."""
        found = []
        for _ in range(count):
            for device, workload, release in self.known:
                values = np.column_stack([self._random.normal(size=(100, 2)), self._random.integers(0, 3, 100)])
                (changes or {}).get(device, unchanged)(values)
                found += [
                    Window(device, workload, release, self._time, self._time + STEP, channel.name,
                           sketch.count(channel, values[:, i]))
                    for i, channel in enumerate(BASELINE)
                ]  # fmt: skip
            self._time += STEP
        return found

    def run(self, count: int, changes: Mapping[str, Change] | None = None) -> list[Alarm]:
        return self.watch.fold(self.windows(count, changes), self.known)


def place(level: str, name: str) -> Place:
    return Place(level, name, "digits", 1)


ALONE = {"d1": ""}
THREE = {"d1": "", "d2": "", "d3": ""}
TEN = {f"d{i}": f"g{i % 2}" for i in range(10)}


@pytest.mark.parametrize(
    ("change", "channel", "direction"),
    [
        (darker, "brightness", "lower"),
        (broken, "contrast", "missing"),
        (one_class, "predicted class", "more often from 1.5"),
    ],
)
def test_an_alarm_names_device_channel_direction_and_time(change: Change, channel: str, direction: str) -> None:
    fleet = Fleet({"d1": "", "d2": ""})
    assert fleet.run(20) == []
    (alarm,) = fleet.run(10, {"d1": change})
    assert alarm.place == place(DEVICE, "d1") and alarm.devices == ("d1",)
    assert alarm.channels[0].channel == channel and alarm.channels[0].evidence >= math.log10(DAYS)
    assert alarm.channels[0].direction == direction
    assert 18 * STEP <= alarm.since <= 21 * STEP <= alarm.at <= 26 * STEP
    text = summary(alarm)
    what = "has faulty data" if change is broken else "drifts"
    assert text.startswith(f"d1: digits release 1 {what} since 1970-01-01 00:")
    assert (alarm.channels[0].fault or direction) in text


def test_faulty_data_are_told_from_a_change_of_the_world() -> None:
    for change, kind, fault in [
        (darker, "drift", ""), (broken, "data-quality", "20% missing"), (one_class, "drift", ""),
        (stuck, "data-quality", "stuck: 99% repeat the value before"),
    ]:  # fmt: skip
        (alarm,) = Fleet(ALONE).run(1, {"d1": change}) or Fleet(ALONE).run(10, {"d1": change})
        assert (alarm.kind, alarm.channels[0].fault) == (kind, fault)
        assert (" has faulty data since " in summary(alarm)) == (kind == "data-quality")


def test_how_much_is_told_in_standard_deviations_and_shares() -> None:
    (alarm,) = Fleet(ALONE).run(10, {"d1": darker})
    assert -1.0 < alarm.channels[0].shift < -0.5
    (alarm,) = Fleet(ALONE).run(10, {"d1": broken})
    assert alarm.channels[0].usual == "0.0% of values" and alarm.channels[0].now == "20.0% of values"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"d3": darker}, [place(DEVICE, "d3")]),
        ({"d3": darker, "d4": darker}, [place(DEVICE, "d3"), place(DEVICE, "d4")]),
        ({"d3": darker, "d4": flat}, [place(DEVICE, "d3"), place(DEVICE, "d4")]),
        ({f"d{i}": bit_darker for i in range(0, 10, 2)}, [place(GROUP, "g0")]),
        ({f"d{i}": bit_darker for i in range(10)}, [place(FLEET, "")]),
        ({f"d{i}": darker for i in range(10)}, [place(FLEET, "")]),
    ],
)
def test_the_place_is_the_one_that_drifts_as_a_whole(changes: dict[str, Change], where: list[Place]) -> None:
    fleet = Fleet(TEN)
    assert fleet.run(30) == []
    alarms = fleet.run(12, changes)
    assert sorted(alarm.place for alarm in alarms) == where
    assert {device for alarm in alarms for device in alarm.devices} == set(changes)


def test_a_pool_finds_what_no_device_shows_as_soon() -> None:
    weak = dict.fromkeys(TEN, bit_darker)
    (alarm,) = Fleet(TEN).run(5, weak)
    assert alarm.place.level == FLEET
    assert Fleet(ALONE).run(5, {"d1": bit_darker}) == []


def test_a_pool_waits_for_those_who_were_heard_of_late() -> None:
    fleet, changes = Fleet(THREE), {"d1": darker, "d2": darker}
    fleet.run(10)
    alarms = list[Alarm]()
    for _ in range(10):
        windows = fleet.windows(1, changes)
        for names in ({"d1", "d2"}, {"d3"}):  # the quiet one is the last to be heard, each time
            alarms += fleet.watch.fold([window for window in windows if window.device in names], fleet.known)
    assert sorted(alarm.place for alarm in alarms) == [place(DEVICE, "d1"), place(DEVICE, "d2")]


def test_a_pool_does_not_wait_for_those_who_are_gone() -> None:
    fleet, changes = Fleet(THREE), {"d1": bit_darker, "d2": bit_darker}
    fleet.run(10)
    left = [window for window in fleet.windows(10, changes) if window.device != "d3"]
    (alarm,) = fleet.watch.fold(left, fleet.known)
    assert alarm.place == place(FLEET, "")


def test_one_alarm_until_reset() -> None:
    fleet = Fleet(ALONE)
    (alarm,) = fleet.run(10, {"d1": darker})
    assert fleet.run(10, {"d1": darker}) == [] and fleet.watch.alarmed == {alarm.place}
    fleet.watch.reset(alarm.place)
    assert fleet.watch.evidence(alarm.place) == -math.inf and not fleet.watch.alarmed
    assert fleet.run(5) == []
    (again,) = fleet.run(10, {"d1": darker})
    assert again.since >= 24 * STEP
    fleet.watch.reset(place(DEVICE, "nobody"))


def much_darker(values: np.ndarray[Any, Any]) -> None:
    values[:, 0] -= 2.5


@pytest.mark.parametrize(
    ("change", "channel", "kind"), [(much_darker, "brightness", "drift"), (broken, "contrast", "data-quality")]
)
def test_what_gets_worse_is_told_once_of_the_place_that_alarmed(change: Change, channel: str, kind: str) -> None:
    fleet = Fleet(TEN)
    (first,) = fleet.run(10, {"d3": darker})
    (further,) = fleet.run(20, {"d3": change})
    assert further.again and not first.again
    assert (further.place, further.devices, further.kind) == (first.place, ("d3",), kind)
    assert further.channels[0].channel == channel and " further since " in summary(further)
    assert fleet.run(20, {"d3": change}) == []


def test_a_silent_device_is_not_held_against_its_group() -> None:
    fleet = Fleet(TEN)
    assert len(fleet.run(8, {"d2": darker})) == 1
    assert fleet.run(30, {"d2": darker}) == []


def test_order_and_grouping_make_no_difference() -> None:
    once, shuffled, piecemeal = Fleet(TEN), Fleet(TEN), Fleet(TEN)
    windows = once.windows(30)
    once.watch.fold(windows, once.known)
    mixed = list(windows)
    random.Random(1).shuffle(mixed)
    shuffled.watch.fold(mixed, once.known)
    for window in windows:
        piecemeal.watch.fold([window], once.known)
    for device in TEN:
        expected = once.watch.evidence(place(DEVICE, device))
        assert shuffled.watch.evidence(place(DEVICE, device)) == pytest.approx(expected)
        assert piecemeal.watch.evidence(place(DEVICE, device)) == pytest.approx(expected)


def test_what_has_no_baseline_changes_nothing() -> None:
    fleet = Fleet(ALONE)
    windows = fleet.windows(9, {"d1": darker})
    strange = [window._replace(channel="smell") for window in windows]
    misfit = [window._replace(counts=np.array([1, 2])) for window in windows]
    other = [window._replace(release=2) for window in windows]
    known = fleet.known | {("d1", "digits", 2): Known(())}
    assert fleet.watch.fold([*strange, *misfit, *other], known) == []
    assert fleet.watch.evidence(place(DEVICE, "d1")) == -math.inf


def test_a_new_release_starts_anew_and_the_old_one_is_forgotten() -> None:
    fleet = Fleet(ALONE)
    fleet.run(2, {"d1": darker})
    fleet.known = {("d1", "digits", 2): Known(BASELINE)}
    fleet.run(1)
    assert fleet.watch.evidence(place(DEVICE, "d1")) == -math.inf
    assert list(fleet.watch.state.traffic) == [("digits", 2)]


def test_the_state_outlives_the_process() -> None:
    fleet, changes = Fleet(TEN), {"d3": darker, "d5": bit_darker}
    assert len(fleet.run(8, changes)) == 1
    state = checkpoint.load(checkpoint.dump(fleet.watch.state), 0.01)
    restored = Watch(DAYS, 0.01, state)
    windows = fleet.windows(20, changes)
    expected, alarms = fleet.watch.fold(windows, fleet.known), restored.fold(windows, fleet.known)
    assert alarms == expected and len(alarms) == 1
    assert restored.alarmed == fleet.watch.alarmed
    for device in TEN:
        assert restored.evidence(place(DEVICE, device)) == fleet.watch.evidence(place(DEVICE, device))


def test_a_state_of_another_kind_is_refused() -> None:
    fleet = Fleet(TEN)
    fleet.run(1)
    with np.load(BytesIO(checkpoint.dump(fleet.watch.state))) as arrays:
        parts = {name: array for name, array in arrays.items() if name != "0/fresh"}
    file = BytesIO()
    np.savez(file, **parts)
    with pytest.raises(InputError, match="has no fresh"):
        checkpoint.load(file.getvalue(), 0.01)


def test_a_small_change_of_all_that_was_there_from_the_first_window_is_the_fleets() -> None:
    fleet = Fleet(TEN, tolerance=0.0)
    (alarm, *_) = fleet.run(40, dict.fromkeys(TEN, hardly_darker))
    assert alarm.place.level == FLEET


def alarms_in_quiet(groups: dict[str, str], windows: int, fleets: Sequence[int], days: float) -> int:
    return sum(len(Fleet(groups, days, tolerance=0.0, seed=seed).run(windows)) for seed in fleets)


def test_quiet_fleets_keep_the_stated_rate() -> None:
    """20 fleets watched for a fifth of the stated time: at most 4 false alarms on average, of all tests together."""
    assert alarms_in_quiet(TEN, 60, range(20), 60 * 5 * STEP / 86400) <= 4
