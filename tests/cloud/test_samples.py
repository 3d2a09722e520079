from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from skerry_cloud.ingest.lake import Lake, schema
from skerry_cloud.ingest.samples import add_labels, confidences, labelled, served, summary, unlabelled
from skerry_shared import latency
from skerry_shared.release import TensorSpec
from skerry_shared.telemetry import NO_HEAT

SPEC = TensorSpec("picture", "uint8", (-1, 2))
LABELS = ("cat", "dog")
SCORES = np.array([0.25, 0.75], np.float32).tobytes()
ORIGIN = {"session": "s", "row": 0, "received": 100.0}


def sample(device: str, name: str, time: float, pixels: bytes = b"ab", workload: str = "w") -> dict[str, Any]:
    return {"workload": workload, "release": 1, "time": time, "prediction_id": name, "input": pixels,
            "encoding": "uint8", "scores": SCORES, "stratum": "uncertain", "probability": 0.5, "audit": 0.125,
            "device": device, **ORIGIN}  # fmt: skip


def label(device: str, name: str, text: str, time: float = 50.0) -> dict[str, Any]:
    return {"time": time, "prediction_id": name, "label": text, "device": device, **ORIGIN}


def lake_of(folder: Path, **tables: list[dict[str, Any]]) -> Lake:
    lake = Lake(folder / "lake")
    for table, rows in tables.items():
        numbered = [row | {"counter": counter} for counter, row in enumerate(rows)]
        lake.append(table, pa.Table.from_pylist(numbered, schema(table)), {})
    return lake


def test_samples_meet_their_late_labels_and_the_last_label_counts(tmp_path: Path) -> None:
    lake = lake_of(
        tmp_path,
        samples=[
            sample("a", "1", 10.0, b"xy"),
            sample("a", "2", 11.0),  # never labelled
            sample("a", "3", 9.0),  # before its device's time
            sample("b", "1", 9.0, b"pq"),  # the same name on another device
            sample("a", "4", 12.0, b"abc"),  # another release's input
            sample("a", "5", 12.0),  # labelled with a word that nobody knows
            sample("a", "6", 12.0, workload="other"),
            sample("c", "1", 12.0),  # not asked for
        ],
        labels=[
            label("a", "1", "cat", 60.0), label("a", "1", "dog", 70.0), label("a", "1", "cat", 65.0),
            label("a", "3", "cat"), label("b", "1", "cat"), label("a", "4", "cat"), label("a", "5", "cow"),
            label("a", "6", "cat"), label("c", "1", "cat"),
        ],
    )  # fmt: skip
    found = labelled(lake, "w", {"a": 10.0, "b": 5.0}, SPEC, LABELS)
    got = sorted(zip(found.sources, map(bytes, found.inputs), found.labels.tolist(), strict=True))
    assert got == [("a", b"xy", 1), ("b", b"pq", 0)]
    assert found.chosen.all()
    chances = found.probabilities, found.audits
    told = zip(found.sources, found.releases.tolist(), found.right.tolist(), *chances, strict=True)
    assert sorted(told) == [("a", 1, True, 0.5, 0.125), ("b", 1, False, 0.5, 0.125)]


def test_an_empty_lake_has_samples_of_the_right_shape(tmp_path: Path) -> None:
    found = labelled(Lake(tmp_path / "lake"), "w", {"a": 0.0}, SPEC, LABELS)
    assert found.inputs.shape == (0, 2) and found.inputs.dtype == np.uint8 and len(found.labels) == 0
    assert summary(Lake(tmp_path / "lake")) == []


def test_the_summary_counts_by_device_and_table(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, samples=[sample("a", "1", 1.0), sample("b", "1", 1.0)], labels=[label("a", "1", "cat")])
    assert [(row["device"], row["samples"], row["labels"], row["windows"]) for row in summary(lake)] == [
        ("a", 1, 1, 0),
        ("b", 1, 0, 0),
    ]


def test_people_label_what_nobody_labelled_yet_and_their_labels_count(tmp_path: Path) -> None:
    names = [str(number) for number in range(20)]
    lake = lake_of(tmp_path, samples=[sample("a", name, 10.0) for name in names], labels=[label("a", "3", "cat")])
    since = {"a": 5.0}
    asked = unlabelled(lake, "w", since, SPEC, 5)
    assert len(asked) == 5 and {row["answer"] for row in asked} == {1}
    assert [row["prediction_id"] for row in asked] != names[:5]  # at random, not the first ones
    add_labels(lake, [("a", row["prediction_id"], "dog") for row in asked[:3]], now=20.0)
    add_labels(lake, [("a", asked[3]["prediction_id"], "cat")], now=21.0)
    left = unlabelled(lake, "w", since, SPEC, 100)
    assert {row["prediction_id"] for row in left} == set(names) - {"3"} - {row["prediction_id"] for row in asked[:4]}
    found = labelled(lake, "w", since, SPEC, LABELS)
    assert sorted(found.right.tolist()) == [False, False, True, True, True]
    assert unlabelled(lake, "w", {"a": 11.0}, SPEC, 5) == []


def test_inputs_that_travelled_in_fewer_bits_are_what_the_model_takes(tmp_path: Path) -> None:
    spec, exact = TensorSpec("readings", "float32", (-1, 2)), np.array([1.5, -3.25], np.float32)
    short = sample("a", "1", 10.0, exact.astype(np.float16).tobytes()) | {"encoding": "float16"}
    long = sample("a", "2", 11.0, exact.tobytes()) | {"encoding": "float32"}
    lake = lake_of(tmp_path, samples=[short, long], labels=[label("a", "1", "cat"), label("a", "2", "cat")])
    found = labelled(lake, "w", {"a": 0.0}, spec, LABELS).inputs
    assert found.dtype == np.float32 and found.tolist() == [exact.tolist()] * 2


def test_confidences_are_the_top_scores_of_a_release_since_a_time(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, samples=[sample("a", "1", 10.0), sample("a", "2", 4.0), sample("b", "1", 10.0)])
    assert [found.tolist() for found in confidences(lake, "w", 1, {"a": 5.0})] == [[0.75], [0.5]]
    assert [found.tolist() for found in confidences(lake, "w", 2, {"a": 5.0})] == [[], []]


def test_how_models_served_is_summed_up_by_model(tmp_path: Path) -> None:
    def window(device: str, end: float, slow: int, heat: float, received: float = 100.0) -> dict[str, Any]:
        counts = latency.count(np.array([0.001] * 98 + [0.5] * slow)).tolist()
        return {"workload": "w", "release": 1, "start": end - 60, "end": end, "answered": 98 + slow, "errors": 1,
                "latency": counts, "hottest_c": heat, "throttled_s": 5.0, "power_mode": f"{end:.0f}W", "device": device,
                **ORIGIN, "received": received}  # fmt: skip

    rows = [window("a", 120.0, 1, 40.0), window("a", 60.0, 4, 55.0), window("b", 60.0, 0, NO_HEAT)]
    lake = lake_of(tmp_path, service=[*rows, window("a", 20.0, 100, 99.0, received=1.0)])
    (a,), (b,) = served(lake, "a", 50.0), served(lake, "b", 50.0)
    near = [pytest.approx(ms, rel=0.19) for ms in (1.0, 500.0)]
    assert [a.pop("p50_ms"), a.pop("p99_ms")] == near
    assert a == {
        "workload": "w", "release": 1, "answered": 201, "errors": 2, "hottest_c": 55.0, "throttled_s": 10.0,
        "power_mode": "120W", "until": 120.0,
    }  # fmt: skip
    assert (b["hottest_c"], b["answered"], served(lake, "c", 0.0)) == (None, 98, [])


def test_the_summary_sums_up_overload_by_model(tmp_path: Path) -> None:
    def load(device: str, workload: str, end: float, **counts: int) -> dict[str, Any]:
        zero = dict.fromkeys(("waited", "shared", "shed", "expired", "refused"), 0)
        about = {"workload": workload, "release": 1 if workload else 0, "start": end - 60, "end": end}
        return about | zero | counts | {"device": device, **ORIGIN}

    rows = [load("a", "w", 60.0, waited=3, shed=1), load("a", "w", 120.0, waited=2), load("a", "", 60.0, refused=4)]
    lake = lake_of(tmp_path, load=[*rows, load("b", "v", 60.0, expired=1)])
    (a, b) = summary(lake)
    nothing = {"shared": 0, "expired": 0}
    assert a["load"] == 3
    assert a["overload"] == [
        {"workload": "", "release": 0, "waited": 0, "shed": 0, "refused": 4, "until": 60.0} | nothing,
        {"workload": "w", "release": 1, "waited": 5, "shed": 1, "refused": 0, "until": 120.0} | nothing,
    ]
    assert [(model["workload"], model["expired"]) for model in b["overload"]] == [("v", 1)]
