"""What protects a device decides purely: shares, quantiles, patience, heat. And the guard that feeds it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_edge import memory
from skerry_edge.config import Protect
from skerry_edge.protect.guard import JUDGED, Guard, Guarded
from skerry_edge.protect.judge import FAILED, Answers, Patience, complaint, count, shift
from skerry_edge.protect.strain import RELIEF_C, Load, Strain, allowance, strain
from skerry_edge.protect.watchdog import Watchdog, stalled
from skerry_edge.upkeep import LOOK_S, TIDY_AGAIN_S, TIDY_S, Upkeep
from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.profiles import Thermal

pytestmark = pytest.mark.arm64


BOUNDS = Protect(slo_ms=10.0)
LABELS = 4

classes = st.lists(st.integers(FAILED, LABELS - 1), min_size=1, max_size=200)
counts = st.lists(st.integers(0, 1000), min_size=LABELS, max_size=LABELS).map(lambda c: np.array(c, np.int64))


def answers(found: list[int], seconds: float = 0.001) -> Answers:
    return Answers(np.full(len(found), seconds), np.array(found, np.int64))


NOTHING = np.zeros(LABELS, np.int64)


@given(classes)
def test_errors_are_complained_about_exactly_above_their_share(found: list[int]) -> None:
    bad = sum(one == FAILED for one in found)
    judged = len(found) >= BOUNDS.min_answers
    assert ("failed" in complaint(answers(found), NOTHING, BOUNDS)) == (judged and bad / len(found) > 0.5)


@given(classes, st.randoms())
def test_the_order_of_answers_does_not_matter(found: list[int], random: Any) -> None:
    shuffled = random.sample(found, len(found))
    usual = np.array([50, 0, 0, 0])
    assert complaint(answers(found), usual, BOUNDS) == complaint(answers(shuffled), usual, BOUNDS)


@given(st.lists(st.floats(0, 1), min_size=20, max_size=100))
def test_latency_is_judged_by_its_quantile(seconds: list[float]) -> None:
    said = complaint(Answers(np.array(seconds), np.zeros(len(seconds), np.int64)), NOTHING, BOUNDS)
    assert ("allowed are 10 ms" in said) == (float(np.quantile(seconds, 0.99)) * 1e3 > 10)


@given(counts, counts, counts)
def test_the_shift_is_a_distance(a: Any, b: Any, c: Any) -> None:
    assert 0 <= shift(a, b) <= 1 + 1e-9
    assert shift(a, b) == shift(b, a)
    assert shift(a, a) == 0
    if a.sum() and b.sum() and c.sum():
        assert shift(a, c) <= shift(a, b) + shift(b, c) + 1e-9


def test_a_collapse_to_one_class_is_complained_about_but_not_a_drift() -> None:
    usual = count(np.array([0, 1, 2] * 100), LABELS)
    assert "100% of its answers moved" in complaint(answers([3] * 50), usual, BOUNDS)
    assert complaint(answers([0] * 50), usual, BOUNDS) == ""


@given(st.lists(st.booleans()), st.integers(1, 5))
def test_patience_is_over_after_so_many_in_a_row(found: list[bool], patience: int) -> None:
    state, row = Patience(), 0
    for one in found:
        state, row = state.after("x" if one else ""), row + 1 if one else 0
        assert state.over(replace(BOUNDS, patience=patience)) == (row >= patience)


class Moody:
    """A model that answers class 0 until told otherwise."""

    def __init__(self) -> None:
        self.scores: Any = [[1.0, 0, 0, 0]]

    def run(self, inputs: Tensors) -> Tensors:
        if self.scores is None:
            raise ModelError("no mood")
        return {"scores": np.array(self.scores, np.float32)}


def test_the_guard_acts_on_the_third_look_in_a_row_that_finds_a_fault() -> None:
    guard, model = Guard(LABELS, BOUNDS), Moody()
    guarded = Guarded(model, guard)
    for scores in ([[1.0, 0, 0, 0]], [[np.nan, 0, 0, 0]]):
        model.scores = scores
        for _ in range(JUDGED):
            guarded.run({})
        assert guard.look() == ""
    model.scores = None
    for expected in ("", "100 of its last 100 answers failed, allowed are 50%"):
        with pytest.raises(ModelError, match="no mood"):
            guarded.run({})
        assert guard.look() == expected
        if expected == "":
            assert guard.look() == "", "a look without new answers must not count"


def test_the_guard_tells_of_each_run_once() -> None:
    guard, model = Guard(LABELS, BOUNDS), Moody()
    Guarded(model, guard).run({})
    model.scores = [[1.0, 0, 0, 0]] * 3
    Guarded(model, guard).run({})
    model.scores = None
    with pytest.raises(ModelError):
        Guarded(model, guard).run({})
    assert [examples for _, examples in guard.runs()] == [1, 3, 0]
    assert guard.runs() == []


def test_the_guard_remembers_no_more_than_it_judges() -> None:
    guard = Guard(LABELS, replace(BOUNDS, patience=1))
    for _ in range(10 * JUDGED):
        guard.failed(0.0)
    assert "of its last 100 answers" in guard.look()
    guard.answered(0.0, np.tile(np.eye(4, dtype=np.float32)[0], (1000, 1)))
    assert guard.look() == ""


heat = st.one_of(st.none(), st.floats(-40, 150))
loads = st.builds(Load, heat, st.booleans(), st.floats(0, 2))


@given(loads, st.sampled_from(Strain))
def test_more_heat_never_means_less_strain(load: Load, before: Strain) -> None:
    now = strain(load, Thermal(), before)
    if load.hottest_c is not None:
        assert strain(replace(load, hottest_c=load.hottest_c + 5), Thermal(), before) >= now
    assert strain(replace(load, throttled=True), Thermal(), before) is Strain.HOT
    assert strain(load, Thermal(), Strain.HOT) >= now, "who comes from hot must cool further"


@given(st.floats(Thermal().warm_c - RELIEF_C, Thermal().warm_c, exclude_max=True))
def test_it_does_not_swing_at_a_limit(celsius: float) -> None:
    load = Load(celsius, False)
    assert strain(load, Thermal(), Strain.NONE) is Strain.NONE
    assert strain(load, Thermal(), Strain.WARM) is Strain.WARM


@given(st.integers(1, 16))
def test_more_strain_never_allows_more(threads: int) -> None:
    allowed = [allowance(level, threads) for level in Strain]
    for less, more in zip(allowed[1:], allowed[:-1], strict=True):
        assert less.sample_share < more.sample_share
        assert 1 <= less.threads <= more.threads
        assert (less.shadow, -less.priority) <= (more.shadow, -more.priority)


@given(st.dictionaries(st.sampled_from("abc"), st.floats(0, 100), min_size=1), st.floats(0, 200))
def test_what_hangs_is_named(beats: dict[str, float], now: float) -> None:
    limits = dict.fromkeys(beats, 30.0)
    assert stalled(beats, limits, now) == sorted(part for part, beat in beats.items() if now - beat > 30)


def test_the_watchdog_is_silent_while_a_part_hangs(capfd: pytest.CaptureFixture[str]) -> None:
    now, told = [0.0], []
    watchdog = Watchdog({"loop": 1.0, "worker": 5.0}, lambda: told.append(now[0]), lambda: now[0], 60)
    assert watchdog.look() == []
    now[0] = 2.0
    assert watchdog.look() == watchdog.look() == ["loop"]
    assert capfd.readouterr().err.count("most recent call first") >= 1
    watchdog.beat("loop")
    assert (watchdog.look(), told) == ([], [0.0, 2.0])


def test_a_started_watchdog_tells_and_ends() -> None:
    import threading

    told = threading.Event()
    watchdog = Watchdog({}, told.set, lambda: 0.0, 0.001)
    watchdog.start()
    assert told.wait(30)
    watchdog.close()
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}


class Updates:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def complain(self, workload: str, release: int, reason: str) -> None:
        self.asked.append(f"complain {workload} {release}: {reason}")

    def recheck(self) -> None:
        self.asked.append("recheck")

    def settle(self) -> None:
        self.asked.append("settle")


def test_upkeep_does_what_is_due_and_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "give_back", lambda: None)
    now, updates, strains = [0.0], Updates(), list[tuple[Strain, str]]()
    settings = Protect(golden_s=100, stable_s=10, memory_mb=1, patience=1)
    upkeep = Upkeep(settings, Thermal(), updates, lambda *change: strains.append(change), lambda: now[0])
    guard = Guard(LABELS, settings)
    upkeep.watch("fashion", 7, guard)
    upkeep.watch("digits", 3, Guard(LABELS, settings))
    upkeep.tick()
    assert "complain digits 3: the agent takes" in updates.asked[0]
    assert "of memory, allowed are 1 MB" in updates.asked.pop()
    upkeep.forget("digits")
    assert [level for level, _ in strains] == [Strain.HOT]
    now[0] = LOOK_S - 1
    for _ in range(20):
        guard.failed(0.0)
    upkeep.tick()
    assert updates.asked == ["complain fashion 7: 20 of its last 20 answers failed, allowed are 50%"]
    now[0] = 10
    upkeep.tick()
    now[0] = 100
    upkeep.tick()
    assert [asked for asked in updates.asked[1:] if "memory" not in asked] == ["settle", "recheck"]
    assert len(strains) == 1


def test_memory_is_given_back_soon_after_a_model_began_to_serve_and_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, given = [0.0], list[float]()
    monkeypatch.setattr(memory, "give_back", lambda: given.append(now[0]))
    upkeep = Upkeep(Protect(), Thermal(), Updates(), lambda *_: None, lambda: now[0])
    for now[0] in range(int(10 + TIDY_S + TIDY_AGAIN_S) + 1):
        if now[0] == 10:
            upkeep.watch("fashion", 1, Guard(LABELS, Protect()))
        upkeep.tick()
    assert given == [TIDY_S, 10 + TIDY_S, 10 + TIDY_S + TIDY_AGAIN_S]
