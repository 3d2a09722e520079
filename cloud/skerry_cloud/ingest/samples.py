"""What is in the lake: how much of whom, and sampled inputs joined with the truth that came later."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from skerry_cloud.ingest.lake import Lake, schema
from skerry_shared.release import TensorSpec
from skerry_shared.telemetry import TABLES

LOAD = ("waited", "shared", "shed", "expired", "refused")  # counts of table "load"
SAMPLE = ("device", "time", "prediction_id", "release", "scores", "probability")
PEOPLE = "people"  # session, and watermark, of labels that no device sent


@dataclass(frozen=True)
class Labelled:
    """n inputs (n × the raw shape), their labels as places in the workload's ``labels``, and their devices.

    Beside them the releases that answered, whether they were right, and the probability of each sample's inclusion, in
    the order of the samples' times.
    """

    inputs: NDArray[np.generic]
    labels: NDArray[np.int64]
    sources: Sequence[str]
    releases: NDArray[np.int64]
    right: NDArray[np.bool_]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class Unlabelled:
    """n inputs (n × the raw shape) whose truth nobody told, and their devices."""

    inputs: NDArray[np.generic]
    sources: Sequence[str]


def labelled(
    lake: Lake, workload: str, since: Mapping[str, float], spec: TensorSpec, labels: Sequence[str]
) -> Labelled:
    """Samples of these devices, each since its own time (Unix seconds), that have a label; the last label counts.

    A label that the workload does not know is as good as none; so is a sample of a release before that took another
    input.
    """
    mine = pc.field("device").isin(list(since))
    wanted = mine & (pc.field("workload") == workload) & (pc.field("time") >= min(since.values()))
    samples = lake.scan("samples", [*SAMPLE, "input"], wanted).sort_by("time")
    truths = lake.scan("labels", ["device", "prediction_id", "label", "time"], mine).sort_by("time")
    places = {label: place for place, label in enumerate(labels)}
    truth = {
        (row["device"], row["prediction_id"]): places[row["label"]]
        for row in truths.to_pylist()
        if row["label"] in places
    }
    known = [
        row
        for row in samples.to_pylist()
        if row["time"] >= since[row["device"]]
        and (row["device"], row["prediction_id"]) in truth
        and len(row["input"]) == _size(spec)
    ]
    told = np.array([truth[row["device"], row["prediction_id"]] for row in known], dtype=np.int64)
    return Labelled(
        _inputs([row["input"] for row in known], spec),
        told,
        [row["device"] for row in known],
        np.array([row["release"] for row in known], dtype=np.int64),
        np.array([_top(row["scores"]) for row in known], dtype=np.int64) == told,
        np.array([row["probability"] for row in known], dtype=np.float64),
    )


def unlabelled(lake: Lake, workload: str, since: Mapping[str, float], count: int) -> list[dict[str, Any]]:
    """Up to ``count`` samples of these devices, each since its own time, that nobody labelled yet, drawn at random.

    Of each its device, time, prediction_id, release, input (bytes) and ``answer``: the place of the top class.
    """
    mine = pc.field("device").isin(list(since))
    wanted = mine & (pc.field("workload") == workload) & (pc.field("time") >= min(since.values()))
    told = lake.scan("labels", ["device", "prediction_id"], mine).to_pylist()
    known = {(row["device"], row["prediction_id"]) for row in told}
    rows = [
        row
        for row in lake.scan("samples", [*SAMPLE, "input"], wanted).to_pylist()
        if row["time"] >= since[row["device"]] and (row["device"], row["prediction_id"]) not in known
    ]
    rows.sort(key=lambda row: hashlib.sha256(f"{row['device']}/{row['prediction_id']}".encode()).digest())
    columns = ("device", "time", "prediction_id", "release", "input")
    return [{**{name: row[name] for name in columns}, "answer": _top(row["scores"])} for row in rows[:count]]


def unlabelled_inputs(
    lake: Lake, workload: str, since: Mapping[str, float], spec: TensorSpec, count: int
) -> Unlabelled:
    """As ``unlabelled``; a sample of a release before that took another input is none."""
    rows = [row for row in unlabelled(lake, workload, since, count) if len(row["input"]) == _size(spec)]
    return Unlabelled(_inputs([row["input"] for row in rows], spec), [row["device"] for row in rows])


def confidences(lake: Lake, workload: str, release: int, since: Mapping[str, float]) -> NDArray[np.float64]:
    """The top score of every sample of this release on these devices, each since its own time."""
    mine = pc.field("device").isin(list(since)) & (pc.field("workload") == workload)
    rows = lake.scan("samples", ["device", "time", "scores"], mine & (pc.field("release") == release)).to_pylist()
    tops = [np.frombuffer(row["scores"], np.float32).max() for row in rows if row["time"] >= since[row["device"]]]
    return np.array(tops, dtype=np.float64)


def add_labels(lake: Lake, labels: Sequence[tuple[str, str, str]], now: float) -> None:
    """Labels that people gave: (device, prediction id, label) each; durable when it returns."""
    mark = lake.watermark("labels", PEOPLE) + 1
    rows = [
        {"time": now, "prediction_id": name, "label": label, "device": device, "session": PEOPLE, "counter": mark,
         "row": row, "received": now}
        for row, (device, name, label) in enumerate(labels)
    ]  # fmt: skip
    lake.append("labels", pa.Table.from_pylist(rows, schema("labels")), {PEOPLE: mark})


def summary(lake: Lake) -> list[dict[str, Any]]:
    """For each device: its rows in every table, when the newest came (Unix seconds), and its ``overload``.

    That is, for each model, how many requests waited, were shared, shed, expired, or refused, until when.
    """
    found: dict[str, dict[str, Any]] = {}
    for table in TABLES:
        rows = lake.scan(table, ["device", "received"])
        for row in rows.group_by("device").aggregate([("received", "count"), ("received", "max")]).to_pylist():
            nothing = {"device": row["device"], **dict.fromkeys(TABLES, 0), "newest": 0.0, "overload": []}
            device = found.setdefault(row["device"], nothing)
            device[table] = row["received_count"]
            device["newest"] = max(device["newest"], row["received_max"])
    for name, model in _overload(lake):
        found[name]["overload"].append(model)
    return [found[name] for name in sorted(found)]


def _top(scores: bytes) -> int:
    """The place of the highest score; -1 for none."""
    return int(np.frombuffer(scores, np.float32).argmax()) if scores else -1


def _overload(lake: Lake) -> Iterator[tuple[str, dict[str, Any]]]:
    """The sums of table "load", by device and model."""
    model = ["device", "workload", "release"]
    rows = lake.scan("load", [*model, *LOAD, "end"]).group_by(model)
    sums = rows.aggregate([*((name, "sum") for name in LOAD), ("end", "max")])
    for row in sums.sort_by([(name, "ascending") for name in model]).to_pylist():
        counts = {name: row[f"{name}_sum"] for name in LOAD}
        yield row["device"], {"workload": row["workload"], "release": row["release"], **counts, "until": row["end_max"]}


def _size(spec: TensorSpec) -> int:
    return np.dtype(spec.dtype).itemsize * math.prod(spec.shape[1:])


def _inputs(raw: Sequence[bytes], spec: TensorSpec) -> NDArray[np.generic]:
    return np.frombuffer(b"".join(raw), dtype=spec.dtype).reshape(-1, *spec.shape[1:])
