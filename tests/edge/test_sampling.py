"""Samples in strata within a budget: what goes home, with which probability, and what can be told from it."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_edge.observe.arrow import Rows, pack, unpack
from skerry_edge.observe.homeward import Homeward
from skerry_edge.observe.recorder import Recorder, read_samples
from skerry_edge.observe.sampling import DAY_S, ENOUGH, FACTORS, Budget, Strata, paced
from skerry_edge.observe.span import Span
from skerry_shared import sketch, telemetry
from skerry_shared.errors import InputError
from skerry_shared.release import ANY, Channel, Lineage, Manifest, Measured, Target, TensorSpec

pytestmark = pytest.mark.arm64

LABELS = ("a", "b", "c")
CONFIDENCE = Channel(sketch.CONFIDENCE, (0.4, 0.6, 0.8), (10, 0, 40, 50))
BASELINE = (Channel(sketch.CLASS, (0.5, 1.5), (60, 38, 2, 0)), CONFIDENCE)
MANIFEST = Manifest(
    "tiny", 3, "tests", LABELS, (TensorSpec("readings", "float32", (ANY, 20)),), (),
    Target("p", "x86_64", "onnxruntime", "int8"), Measured(1, 1, 1, 0), Lineage(1, "", 1, ""), BASELINE, 0.1, "m.onnx",
)  # fmt: skip


def scores(top: int, confidence: float) -> np.ndarray[Any, Any]:
    rest = (1 - confidence) / 2
    return np.array([confidence if place == top else rest for place in range(3)], np.float32)


def test_the_reference_says_what_is_uncertain_and_rare_and_traffic_what_is_rare_from_then_on() -> None:
    strata = Strata(BASELINE, len(LABELS))
    assert [strata.of(scores(0, confidence)) for confidence in (0.5, 0.59, 0.61, 0.9)] == [
        "uncertain", "uncertain", "audit", "audit",
    ]  # fmt: skip
    assert (strata.of(scores(2, 0.9)), strata.of(scores(1, 0.9))) == ("rare", "audit")
    strata.saw(np.array([100, 100, 10_000, 5]))
    assert (strata.of(scores(2, 0.9)), strata.of(scores(1, 0.9))) == ("audit", "rare")
    for _ in range(100):
        strata.saw(np.array([10_000, 10_000, 0, 0]))
    assert strata.of(scores(2, 0.9)) == "rare", "what was long ago is forgotten"


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any))
def test_what_is_uncertain_is_the_reference_s_least_confident_part(counts: list[int]) -> None:
    channel = Channel(sketch.CONFIDENCE, (0.4, 0.6, 0.8), tuple(counts))
    unsure = Strata((BASELINE[0], channel), 3)._unsure
    below = sum(count for edge, count in zip(channel.edges, counts, strict=False) if edge <= unsure)
    assert below <= 0.15 * sum(counts)


bursts = st.lists(st.tuples(st.floats(0, 2 * DAY_S), st.integers(1, 400_000)), min_size=1, max_size=60)


@given(bursts, st.floats(1e3, 1e7))
def test_whatever_is_offered_no_day_takes_more_than_its_budget(bursts: list[tuple[float, int]], day: float) -> None:
    budget, now, paid = Budget(day, 0.0), 0.0, list[tuple[float, int]]()
    for passed, size in bursts:
        now += passed
        assert 0 < budget.share(size, now) <= 1
        if budget.pays(size):  # chance kept all of it
            paid.append((now, size))
    for end, _ in paid:
        assert sum(size for when, size in paid if end - DAY_S < when <= end) <= day * (1 + 1e-9)


@pytest.mark.parametrize("size", [600, 20_000, 50_000])
@pytest.mark.parametrize("period_s", [1.0, 60.0])
@pytest.mark.parametrize("excess", [0.3, 3.0, 300.0])
def test_the_budget_is_used_and_nothing_that_was_drawn_is_refused(size: int, period_s: float, excess: float) -> None:
    """Days of batches of samples that would take so much more than the budget, each sample up to a fortieth of it."""
    day, steps, rng = 2e6, 20_000, np.random.default_rng(0)
    budget, gone, shares = Budget(day, 0.0), 0, []
    for step, offered in enumerate(rng.poisson(excess * day * period_s / DAY_S / size, steps)):
        if offered:
            shares.append(budget.share(size * int(offered), step * period_s))
            kept = int(rng.binomial(offered, shares[-1]))
            assert budget.pays(size * kept)
            gone += size * kept
    days = steps * period_s / DAY_S
    assert gone < (0.75 * days + 0.25) * day
    if size == 600:
        assert min(shares) == 1 if excess < 0.75 else gone > 0.7 * days * day


def many(inputs: list[bytes]) -> Rows:
    """A sample of each input, all drawn alike."""
    n = len(inputs)
    return {
        "workload": ["w"] * n, "release": [1] * n, "time": [1.0] * n, "prediction_id": [str(i) for i in range(n)],
        "input": inputs, "encoding": ["uint8"] * n, "scores": [b""] * n, "stratum": ["uncertain"] * n,
        "probability": [0.4] * n, "audit": [0.1] * n,
    }  # fmt: skip


class Home:
    """A model that answers much, some of it uncertain or rare, and what of it comes home."""

    def __init__(self, day_bytes: float, rate: float, reduced: bool = False, seed: int = 0) -> None:
        self.now, self.put, self.lost = 0.0, list[bytes](), list[str]()
        self.drawn, self.rng = list[Rows](), np.random.default_rng(seed)
        clock = lambda: self.now  # noqa: E731
        self.homeward = Homeward(
            day_bytes, reduced, lambda _, payload: self.put.append(payload),
            lambda _, why: self.lost.append(why), clock, self.rng.random,
        )  # fmt: skip
        self.recorder = Recorder(MANIFEST, self._sink, Span(60, clock, clock), rate, self.rng.random)

    def _sink(self, table: str, rows: Rows) -> None:
        if table == "samples":
            self.drawn.append(rows)
            self.homeward.send(rows)

    def answer(self, seconds: int, each: int) -> np.ndarray[Any, Any]:
        """The scores of ``each`` answers in each second."""
        tops = self.rng.choice(3, seconds * each, p=[0.6, 0.38, 0.02])
        confidences = 0.4 + 0.6 * self.rng.beta(3, 2, len(tops))
        answers = np.array([scores(*answer) for answer in zip(tops, confidences, strict=True)])
        for second in range(seconds):
            part = answers[second * each : (second + 1) * each]
            readings = self.rng.normal(size=(each, 20)).astype(np.float32)
            names = [f"{second}.{place}" for place in range(each)]
            self.recorder.observe(names, {"readings": readings}, {"scores": part})
            self.now += 1
            self.recorder.tick()
        self.recorder.close()
        return answers

    def rows(self) -> dict[str, Any]:
        columns: dict[str, Any] = {name: [] for name in telemetry.TABLES["samples"]}
        for payload in self.put:
            for name, values in unpack("samples", payload).items():
                columns[name] += values
        return columns


def test_rates_over_all_answers_are_estimated_without_bias_though_the_budget_binds() -> None:
    errors, biases, audits = [], [], []
    for seed in range(12):
        home = Home(5e5, 0.2, seed=seed)
        answers = home.answer(240, 40)
        rows = home.rows()
        assert not home.lost and len(rows["time"]) < 0.8 * sum(len(drawn["time"]) for drawn in home.drawn), (
            "the budget must bind"
        )
        sampled = np.stack([np.frombuffer(raw, np.float32) for raw in rows["scores"]])
        weights, told = 1 / np.array(rows["probability"]), np.array(rows["stratum"]) == "audit"
        truth = np.array([1.0, (answers.argmax(axis=1) == 2).mean(), answers.max(axis=1).mean()])
        values = np.stack([np.ones(len(weights)), sampled.argmax(axis=1) == 2, sampled.max(axis=1)])
        errors.append(values @ weights / len(answers) - truth)
        biases.append(values.mean(axis=1) - truth)
        audits.append((values[:, told] @ (1 / np.array(rows["audit"])[told])) / len(answers) - truth)
        assert set(rows["stratum"]) == set(FACTORS)
    for found in (errors, audits):
        assert (abs(np.mean(found, axis=0)) < 4 * np.std(found, axis=0) / np.sqrt(len(found))).all()
    assert np.mean(biases, axis=0)[1] > 0.03 and np.mean(biases, axis=0)[2] < -0.03


def test_each_answer_is_drawn_with_the_probability_that_its_row_says() -> None:
    home = Home(1e12, 0.05)
    answers = home.answer(100, 300)
    strata, rows = Strata(BASELINE, 3), home.rows()
    many = Counter(strata.of(answer) for answer in answers)
    for name, factor in FACTORS.items():
        mine = [
            probability
            for probability, raw in zip(rows["probability"], rows["scores"], strict=True)
            if strata.of(np.frombuffer(raw, np.float32)) == name
        ]
        assert set(mine) == {0.05 * factor} and set(rows["audit"]) == {0.05}
        expected = many[name] * 0.05 * factor
        assert abs(len(mine) - expected) < 5 * np.sqrt(expected)


@given(st.just(0.0) | st.floats(1e-9, 1), st.floats(0, 1e9), st.integers(0, 20))
def test_the_audit_is_as_asked_for_or_halved_until_it_is_enough(rate: float, answers_s: float, halved: int) -> None:
    last = rate / 2**halved
    found = paced(rate, answers_s, last)
    assert found * answers_s <= ENOUGH * (1 + 1e-9)
    assert found in (rate, 2 * last) or found * 2 * answers_s > ENOUGH * (1 - 1e-9)
    assert found <= 2 * last
    assert rate == 0 or np.log2(rate / found).is_integer()


def test_bursts_are_drawn_as_often_as_suits_them() -> None:
    rate, drawn = 1.0, list[float]()
    for second in range(60):
        answers = 1000 * (second % 5 == 0)
        drawn.append(rate * answers)
        rate = paced(1.0, answers, rate)
    assert sum(drawn[5:]) / 55 <= 2 * ENOUGH


def test_batches_that_pack_well_and_badly_take_turns_and_none_is_refused() -> None:
    put, lost, now, rng = list[bytes](), list[str](), [0.0], np.random.default_rng(0)
    homeward = Homeward(
        2e6, False, lambda _, payload: put.append(payload), lambda _, why: lost.append(why), lambda: now[0], rng.random
    )
    for turn in range(40):
        inputs = [bytes(4096) if turn % 2 == 0 else rng.bytes(4096) for _ in range(250)]
        homeward.send(many(inputs))
        now[0] += 60
    assert put and not lost


def test_proof_sees_a_random_sample_exact_whatever_the_budget() -> None:
    home = Home(1e4, 0.3, reduced=True)
    home.answer(30, 20)
    seen = [found for drawn in home.drawn for found in read_samples(MANIFEST, drawn)]
    assert abs(len(seen) - 180) < 5 * np.sqrt(180)
    assert seen[0][1]["readings"].dtype == np.float32
    assert len(home.rows()["input"]) < 100


def test_samples_within_the_budget_go_as_they_are_and_others_say_how_likely_they_were() -> None:
    put, lost = list[bytes](), list[str]()
    rows = many([bytes(range(200))] * 50)
    payload = pack("samples", rows)
    rich = Homeward(1e9, False, lambda _, payload: put.append(payload), lambda *why: lost.extend(why), lambda: 0.0)
    rich.send(rows)
    assert put == [payload]
    draws, day_bytes = iter([0.001, *[0.999] * 49]), 8.0 * len(pack("samples", rows, thorough=False))
    poor = Homeward(
        day_bytes, False, lambda _, payload: put.append(payload), lambda *why: lost.extend(why), lambda: 0.0,
        lambda: next(draws, 0.0),
    )  # fmt: skip
    poor.send(rows)
    assert len(put) == 2, "the first one is within what may go at once"
    poor.send(rows)
    kept = unpack("samples", put[2])
    assert kept["prediction_id"] == ["0"] and 0 < kept["probability"][0] < 0.4
    assert kept["audit"][0] == pytest.approx(kept["probability"][0] / 4)
    for _ in range(3):
        poor.send(rows)
    assert lost[0] == "samples" and "sample_mb_day" in lost[1]
    mixed = rows | {"workload": ["v", *["w"] * 49]}
    with pytest.raises(InputError, match="workload: a batch is about one, not about 2"):
        poor.send(mixed)
