from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry_edge.observe.arrow import Rows, pack, unpack
from skerry_edge.observe.recorder import FEW, SAMPLES, Recorder, label_rows, read_samples
from skerry_edge.observe.span import Span
from skerry_shared import sketch, telemetry, windows
from skerry_shared.errors import InputError
from skerry_shared.release import ANY, Channel, Lineage, Manifest, Measured, Target, TensorSpec

pytestmark = pytest.mark.arm64


NAMES = sketch.channel_names(["brightness"])
MANIFEST = Manifest(
    "tiny", 3, "tests", ("a", "b", "c"), (TensorSpec("image", "uint8", (ANY, 2, 2)),), (),
    Target("p", "x86_64", "onnxruntime", "int8"), Measured(1, 1, 1, 0), Lineage(1, "", 1, ""),
    (Channel(NAMES[0], (0.25, 0.5), (1, 1, 1, 0)), Channel(NAMES[1], (0.5, 1.5), (1, 1, 1, 0)),
     Channel(NAMES[2], (0.6,), (1, 1, 1))), 0.1, "model.onnx",
)  # fmt: skip


def span(seconds: float, now: Callable[[], float] = lambda: 0.0) -> Span:
    return Span(seconds, now, now)


class Sunk:
    """What a recorder passed on."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, Rows]] = []

    def __call__(self, table: str, rows: Rows) -> None:
        self.batches.append((table, unpack(table, pack(table, rows))))  # they must fit the table

    def rows(self, table: str) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {column: [] for column in telemetry.TABLES[table]}
        for name, rows in self.batches:
            if name == table:
                for column, values in rows.items():
                    columns[column] += values
        return columns

    def counts(self) -> dict[str, np.ndarray[Any, Any]]:
        sizes = [len(channel.counts) for channel in MANIFEST.baseline]
        total = sum(windows.unpack(sizes, packed) for packed in self.rows("windows")["packed"])
        return dict(zip(NAMES, np.split(total, np.cumsum(sizes)[:-1]), strict=True))


def batch(examples: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    random = np.random.default_rng(seed)
    monitors = random.random((examples, 1), dtype=np.float32)
    monitors[random.random(examples) < 0.1] = np.nan
    scores = random.dirichlet(np.ones(3), examples).astype(np.float32)
    inputs = {"image": random.integers(0, 256, (examples, 2, 2), dtype=np.uint8)}
    return inputs, {"scores": scores, "monitors": monitors}


def ids(examples: int, batch_number: int = 0) -> list[str]:
    return [f"{batch_number}.{i}" for i in range(examples)]


def test_an_application_may_change_its_answers_without_changing_what_was_seen() -> None:
    sunk = Sunk()
    recorder = Recorder(MANIFEST, sunk, span(60), 1.0)
    inputs, outputs = batch(50, 0)
    values = sketch.channel_values(outputs["scores"], outputs["monitors"])
    recorder.observe(ids(50), inputs, outputs)
    for array in (*inputs.values(), *outputs.values()):
        array[:] = 0
    recorder.close()
    for i, channel in enumerate(MANIFEST.baseline):
        np.testing.assert_array_equal(sunk.counts()[channel.name], sketch.count(channel, values[:, i]))
    assert any(np.frombuffer(raw, np.uint8).any() for raw in sunk.rows("samples")["input"])


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=12), window=st.integers(1, 5))
def test_windows_add_up_to_counting_everything_at_once(sizes: list[int], window: int) -> None:
    sunk, now = Sunk(), [0.0]
    recorder = Recorder(MANIFEST, sunk, span(window, lambda: now[0]), 0.0)
    values = []
    for seed, size in enumerate(sizes):
        inputs, outputs = batch(size, seed)
        recorder.observe(ids(size), inputs, outputs)
        values.append(sketch.channel_values(outputs["scores"], outputs["monitors"]))
        now[0] += 1
        recorder.tick()
    recorder.close()
    everything = np.concatenate(values)
    for i, channel in enumerate(MANIFEST.baseline):
        np.testing.assert_array_equal(sunk.counts()[channel.name], sketch.count(channel, everything[:, i]))
    starts, ends = sunk.rows("windows")["start"], sunk.rows("windows")["end"]
    assert all(end - start <= window for start, end in zip(starts, ends, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64", None])
def test_one_answer_and_several_are_counted_together_whatever_is_monitored(dtype: str | None) -> None:
    sunk, values = Sunk(), []
    watched = MANIFEST.baseline if dtype else MANIFEST.baseline[1:]
    recorder = Recorder(replace(MANIFEST, baseline=watched), sunk, span(60), 0.0)
    for seed, size in enumerate([1, 5, 1, 1, 3]):
        inputs, outputs = batch(size, seed)
        scores, monitors = np.asfortranarray(outputs["scores"]), outputs.pop("monitors")
        outputs = {"scores": scores} | ({"monitors": monitors.astype(dtype)} if dtype else {})
        recorder.observe(ids(size), inputs, outputs)
        values.append(sketch.channel_values(scores, monitors if dtype else monitors[:, :0]))
    recorder.close()
    everything = np.concatenate(values)
    (packed,), sizes = sunk.rows("windows")["packed"], [len(channel.counts) for channel in watched]
    expected = [sketch.count(channel, everything[:, i]) for i, channel in enumerate(watched)]
    np.testing.assert_array_equal(windows.unpack(sizes, packed), np.concatenate(expected))


def test_threads_lose_nothing() -> None:
    sunk = Sunk()
    recorder = Recorder(MANIFEST, sunk, span(1e-6, iter(range(10**6)).__next__), 1.0)
    inputs, outputs = batch(10, 0)
    with ThreadPoolExecutor(4) as threads:
        for n in range(200):
            threads.submit(recorder.observe, ids(10, n), inputs, outputs)
            threads.submit(recorder.tick)
    recorder.close()
    assert {channel: counts.sum() for channel, counts in sunk.counts().items()} == dict.fromkeys(NAMES, 2000)
    assert len(set(sunk.rows("samples")["prediction_id"])) == 2000


def test_a_sample_is_the_input_the_scores_and_how_likely_it_was() -> None:
    sunk, draws = Sunk(), iter([0.3, 0.1, 0.25])
    recorder = Recorder(MANIFEST, sunk, span(60, lambda: 7.0), 0.25, draw=draws.__next__)
    inputs, outputs = batch(3, 1)
    recorder.observe(["p0", "p1", "p2"], inputs, outputs)
    recorder.close()
    assert sunk.rows("samples") == {
        "workload": ["tiny"], "release": [3], "time": [7.0], "prediction_id": ["p1"], "stratum": ["audit"],
        "probability": [0.25], "audit": [0.25], "input": [inputs["image"][1].tobytes()], "encoding": ["uint8"],
        "scores": [outputs["scores"][1].tobytes()],
    }  # fmt: skip


def test_samples_come_back_as_the_tensors_that_went_in() -> None:
    sunk = Sunk()
    recorder = Recorder(MANIFEST, sunk, span(60), 1.0)
    inputs, outputs = batch(2, 1)
    recorder.observe(ids(2), inputs, outputs)
    recorder.close()
    (rows,) = [rows for table, rows in sunk.batches if table == "samples"]
    for i, (_, tensors, scores) in enumerate(read_samples(MANIFEST, rows)):
        np.testing.assert_array_equal(tensors["image"], inputs["image"][i : i + 1])
        np.testing.assert_array_equal(scores, outputs["scores"][i])
    with pytest.raises(InputError):
        list(read_samples(MANIFEST, rows | {"input": [b"no input"] * len(rows["input"])}))


def test_observing_does_not_call_the_sink_until_samples_pile_up() -> None:
    sunk = Sunk()
    recorder = Recorder(MANIFEST, sunk, span(0.001, iter(range(10**6)).__next__), 1.0)
    inputs, outputs = batch(1, 1)
    for _ in range(FEW + SAMPLES * 6):  # it grows old meanwhile
        recorder.observe(["p"], inputs, outputs)
    assert sunk.batches == []
    for _ in range(SAMPLES):
        recorder.observe(["p"], inputs, outputs)
    assert len(sunk.rows("samples")["time"]) == FEW + SAMPLES * 7


def test_a_model_that_has_served_for_long_sends_more_samples_together() -> None:
    sunk, now = Sunk(), [0.0]
    recorder = Recorder(MANIFEST, sunk, Span(1e9, lambda: now[0], lambda: now[0]), 1.0)
    now[0] = 1000.0
    recorder.observe(["first"], *batch(1, 1))
    recorder.tick()
    for _ in range(SAMPLES - 1):
        recorder.observe(["p"], *batch(1, 1))
    recorder.tick()
    assert sunk.rows("samples")["prediction_id"] == ["first"]
    recorder.observe(["last"], *batch(1, 1))
    recorder.tick()
    assert len(sunk.rows("samples")["time"]) == SAMPLES + 1


def test_answers_that_come_fast_are_sampled_less_often_and_say_so() -> None:
    sunk, now, rates = Sunk(), [0.0], dict[float, float]()
    recorder = Recorder(MANIFEST, sunk, Span(1e9, lambda: now[0], lambda: now[0]), 0.5, draw=lambda: 0.0)
    for answers, seconds in ((1600, 2.0), (1600, 2.0), (10, 0.5), (90, 1.5), (10, 2.0), (10, 2.0)):
        recorder.observe(ids(answers), *batch(answers, answers))
        now[0] += seconds
        recorder.tick()  # half a second is too early to tell
    recorder.sample_at(0.25)
    for _ in range(2):
        recorder.observe(ids(1600), *batch(1600, 1))
        now[0] += 2.0
        recorder.tick()
    recorder.close()
    for came, rate in zip(sunk.rows("samples")["time"], sunk.rows("samples")["audit"], strict=True):
        assert rates.setdefault(came, rate) == rate
    assert rates == {
        0.0: 0.5, 2.0: 1 / 16, 4.0: 1 / 16, 4.5: 1 / 16, 6.0: 1 / 8, 8.0: 1 / 4, 10.0: 1 / 4, 12.0: 1 / 16,
    }  # fmt: skip


def test_a_share_that_was_asked_for_stays_while_answers_come_slowly() -> None:
    sunk, now = Sunk(), [0.0]
    recorder = Recorder(MANIFEST, sunk, Span(1e9, lambda: now[0], lambda: now[0]), 0.5, draw=lambda: 0.0)
    recorder.sample_at(0.125)
    for _ in range(3):
        recorder.observe(["one"], *batch(1, 1))
        now[0] += 2.0
        recorder.tick()
    recorder.close()
    assert sunk.rows("samples")["audit"] == [0.125] * 3


def test_what_comes_after_close_is_passed_on_at_once() -> None:
    sunk = Sunk()
    recorder = Recorder(MANIFEST, sunk, span(60), 0.0)
    recorder.close()
    recorder.observe(["late"], *batch(1, 1))
    assert sunk.counts()["confidence"].sum() == 1


def test_labels() -> None:
    assert unpack("labels", label_rows(5.0, [("p1", "boot")])) == {
        "time": [5.0], "prediction_id": ["p1"], "label": ["boot"],
    }  # fmt: skip


@given(jumps=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20))
def test_windows_last_their_time_whatever_the_clock_does(jumps: list[float]) -> None:
    sunk, wall, timer = Sunk(), [1.7e9], [0.0]
    recorder = Recorder(MANIFEST, sunk, Span(60, lambda: wall[0], lambda: timer[0]), 0.0)
    for jump in jumps:
        recorder.observe(["p"], *batch(1, 0))
        wall[0] = max(0.0, wall[0] + jump)
        timer[0] += 59
        recorder.tick()
        before = len(sunk.batches)
        timer[0] += 1
        recorder.tick()
        assert len(sunk.batches) == before + 1
    rows = sunk.rows("windows")
    assert all(0 <= end - start <= 61 and start >= 0 for start, end in zip(rows["start"], rows["end"], strict=True))
    assert sunk.counts()["confidence"].sum() == len(jumps)
