"""The last word of devices on finalists, as a pure function."""

import json
from dataclasses import asdict, replace

from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.compress.settle import settled
from skerry_cloud.compress.study import Answers, Figures, Goal, OnDevice, Search, Trial, Verdict
from skerry_shared.release import Kind

KIND = Kind("onnxruntime", "int8", "aarch64")
PASS = Verdict("accuracy", "", True, 0.1, 0.2, 1.0, 500, "all rows")
GOAL = Goal(1.0, 5.0)


def trial(recipe: str, ratio: float, size: int = 100, passed: bool = True) -> Trial:
    figures = Figures(0.9, 0.5, size, ratio, ratio, recipe)
    return Trial(recipe, KIND, 0, (), figures, (replace(PASS, passed=passed),))


def row(latency_ms: float, fault: str = "", device: str = "edge-1", provider: str = "cpu") -> OnDevice:
    return OnDevice("raspberry-pi-5", device, "abc", provider, fault, 0.0, latency_ms, 20.0, 4.0)


def decide(trials: list[Trial], found: dict[str, list[OnDevice]], goal: Goal = GOAL, silent: str = "") -> Search:
    first = next((each.recipe for each in trials if each.passed), "")
    search = Search(KIND, ("raspberry-pi-5",), tuple(trials), (), first, "the fastest here")
    return settled(search, Answers(KIND, {name: tuple(rows) for name, rows in found.items()}, silent), goal)


TWO = [trial("a", 0.2), trial("b", 0.5)]


def test_the_device_knows_better_which_is_faster() -> None:
    found = decide(TWO, {"a": [row(4.0)], "b": [row(3.0)]})
    assert found.chosen == "b"
    assert "edge-1 3 ms on cpu (raspberry-pi-5)" in found.reason
    assert [each.devices for each in found.trials] == [(row(4.0),), (row(3.0),)]


def test_where_latencies_are_close_the_smaller_is_taken() -> None:
    pair = [trial("a", 0.2, size=200), trial("b", 0.5, size=100)]
    assert decide(pair, {"a": [row(3.0)], "b": [row(3.05)]}).chosen == "b"


def test_each_is_as_fast_as_on_its_best_provider() -> None:
    found = decide(TWO, {"a": [row(9.0), row(1.0, provider="tensorrt")], "b": [row(3.0)]})
    assert found.chosen == "a" and "1 ms on tensorrt" in found.reason


def test_what_a_device_cannot_run_is_out_and_says_why() -> None:
    found = decide(TWO, {"a": [row(0.0, "golden check: output 'scores' differs by 0.3")], "b": [row(9.0)]})
    assert found.chosen == "b"
    assert "differs by 0.3" in next(each.reason for each in found.trials[0].verdicts if not each.passed)


def test_the_limit_of_latency_is_the_devices() -> None:
    goal = replace(GOAL, max_latency_ms=2.0)
    assert decide([trial("a", 9.0), trial("b", 0.1)], {"a": [row(1.0)], "b": [row(3.0)]}, goal).chosen == "a"
    none = decide(TWO, {"a": [row(5.0)], "b": [row(3.0)]}, goal)
    assert (none.chosen, "device: 5 ms on cpu, at most 2 ms" in none.reason) == ("", True)


def test_without_an_answer_the_choice_made_here_stays_and_the_reason_says_so() -> None:
    found = decide(TWO, {}, silent="edge-1 answered 0 of 2 in time")
    assert (found.chosen, found.reason) == ("a", "the fastest here; edge-1 answered 0 of 2 in time")
    assert decide(TWO, {}, replace(GOAL, max_latency_ms=0.1), "edge-1 was silent").chosen == ""
    assert decide([trial("a", 0.3), trial("b", 0.1)], {}, replace(GOAL, max_latency_ms=0.2)).chosen == "b"


def test_what_was_measured_comes_before_what_was_not() -> None:
    assert decide(TWO, {"b": [row(30.0)]}, silent="late").chosen == "b"
    assert decide(TWO, {"b": [row(0.0, "crashed")]}, silent="late").chosen == "a"


def test_several_devices_of_a_kind_decide_together() -> None:
    found = {"a": [row(1.0), row(9.0, device="edge-2")], "b": [row(2.0), row(3.0, device="edge-2")]}
    assert decide(TWO, found).chosen == "b"  # twice as slow here, three times as fast there
    found["b"][1] = row(0.0, "does not fit", "edge-2")
    assert decide(TWO, found).chosen == "a"


def test_what_failed_a_gate_is_not_asked_for() -> None:
    found = decide([trial("a", 0.1, passed=False), trial("b", 0.5)], {"b": [row(1.0)]})
    assert found.chosen == "b" and not found.trials[0].devices


latencies = st.none() | st.floats(0.001, 1000)
pools = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(0.01, 10), latencies, st.booleans()), min_size=1)


@given(pools, st.none() | st.floats(0.01, 100))
def test_whatever_they_say_only_what_passed_is_chosen(
    pool: dict[str, tuple[float, float | None, bool]], limit: float | None
) -> None:
    trials = [trial(name, ratio) for name, (ratio, _, _) in pool.items()]
    found = {name: [row(said, "broke" if bad else "")] for name, (_, said, bad) in pool.items() if said is not None}
    search = decide(trials, found, replace(GOAL, max_latency_ms=limit))
    passed = {each.recipe: each for each in search.trials if each.passed}
    assert bool(search.chosen) == bool(passed) and (not passed or search.chosen in passed)
    heard = [each for each in passed.values() if each.devices]
    assert not heard or passed[search.chosen].devices
    json.dumps(asdict(search), allow_nan=False)
