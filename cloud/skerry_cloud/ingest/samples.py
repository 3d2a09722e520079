"""What is in the lake: how much of whom, how models served, and samples joined with the truth that came later."""

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from skerry_cloud.ingest.lake import Lake, schema
from skerry_shared import latency
from skerry_shared.errors import InputError
from skerry_shared.inputs import decoded
from skerry_shared.release import TensorSpec
from skerry_shared.telemetry import AUDIT, NO_HEAT, TABLES

LOAD = ("waited", "shared", "shed", "expired", "refused")  # counts of table "load"
SAMPLE = (
    "device",
    "time",
    "prediction_id",
    "release",
    "input",
    "encoding",
    "scores",
    "stratum",
    "probability",
    "audit",
)
PEOPLE = "people"  # session, and watermark, of labels that no device sent


@dataclass(frozen=True)
class Labelled:
    """n inputs (n × the raw shape), their labels as places in the workload's ``labels``, and their devices.

    Beside them the releases that answered, whether they were right, the probability of each sample's inclusion, and of
    any answer's at that time, at least, and whether it was chosen, not drawn at random; in the order of their times.
    """

    inputs: NDArray[np.generic]
    labels: NDArray[np.int64]
    sources: Sequence[str]
    releases: NDArray[np.int64]
    right: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    audits: NDArray[np.float64]
    chosen: NDArray[np.bool_]


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
    samples = lake.scan("samples", SAMPLE, wanted).sort_by("time")
    truths = lake.scan("labels", ["device", "prediction_id", "label", "time"], mine).sort_by("time")
    places = {label: place for place, label in enumerate(labels)}
    truth = {
        (row["device"], row["prediction_id"]): places[row["label"]]
        for row in truths.to_pylist()
        if row["label"] in places
    }
    known = [
        row for row in _readable(samples.to_pylist(), since, spec) if (row["device"], row["prediction_id"]) in truth
    ]
    told = np.array([truth[row["device"], row["prediction_id"]] for row in known], dtype=np.int64)
    return Labelled(
        _stacked([row["input"] for row in known], spec),
        told,
        [row["device"] for row in known],
        np.array([row["release"] for row in known], dtype=np.int64),
        np.array([_top(row["scores"]) for row in known], dtype=np.int64) == told,
        np.array([row["probability"] for row in known], dtype=np.float64),
        np.array([row["audit"] for row in known], dtype=np.float64),
        np.array([row["stratum"] != AUDIT for row in known], dtype=np.bool_),
    )


def unlabelled(
    lake: Lake, workload: str, since: Mapping[str, float], spec: TensorSpec, count: int
) -> list[dict[str, Any]]:
    """Up to ``count`` samples of these devices, each since its own time, that nobody labelled yet, drawn at random.

    Of each its device, time, prediction_id, release, input (a batch of one) and ``answer``: the place of the top class.
    """
    mine = pc.field("device").isin(list(since))
    wanted = mine & (pc.field("workload") == workload) & (pc.field("time") >= min(since.values()))
    told = lake.scan("labels", ["device", "prediction_id"], mine).to_pylist()
    known = {(row["device"], row["prediction_id"]) for row in told}
    rows = [
        row
        for row in _readable(lake.scan("samples", SAMPLE, wanted).to_pylist(), since, spec)
        if (row["device"], row["prediction_id"]) not in known
    ]
    rows.sort(key=lambda row: hashlib.sha256(f"{row['device']}/{row['prediction_id']}".encode()).digest())
    columns = ("device", "time", "prediction_id", "release", "input")
    return [{**{name: row[name] for name in columns}, "answer": _top(row["scores"])} for row in rows[:count]]


def unlabelled_inputs(
    lake: Lake, workload: str, since: Mapping[str, float], spec: TensorSpec, count: int
) -> Unlabelled:
    """As ``unlabelled``."""
    rows = unlabelled(lake, workload, since, spec, count)
    return Unlabelled(_stacked([row["input"] for row in rows], spec), [row["device"] for row in rows])


def confidences(
    lake: Lake, workload: str, release: int, since: Mapping[str, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The top score and the probability of every sample of this release on these devices, each since its own time."""
    mine = pc.field("device").isin(list(since)) & (pc.field("workload") == workload)
    columns = ["device", "time", "scores", "probability"]
    rows = lake.scan("samples", columns, mine & (pc.field("release") == release)).to_pylist()
    late = [row for row in rows if row["time"] >= since[row["device"]]]
    tops = [np.frombuffer(row["scores"], np.float32).max() for row in late]
    return np.array(tops, dtype=np.float64), np.array([row["probability"] for row in late], dtype=np.float64)


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


def served(lake: Lake, device: str, since: float) -> list[dict[str, Any]]:
    """How each model served on a device, by what was received since then (Unix seconds).

    Of each its examples answered, errors, quantiles of its latency (ms); the highest temperature of the board meanwhile
    (None without a sensor), seconds throttled, last power mode; and until when.
    """
    wanted = (pc.field("device") == device) & (pc.field("received") >= since)
    models = defaultdict[tuple[str, int], list[dict[str, Any]]](list)
    for row in lake.scan("service", filter=wanted).sort_by("end").to_pylist():
        models[row["workload"], row["release"]].append(row)
    return [_served(rows) for _, rows in sorted(models.items())]


def _served(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of one model's windows, oldest first."""
    last, counts = rows[-1], np.sum([row["latency"] for row in rows], axis=0)
    hottest = max(row["hottest_c"] for row in rows)
    return {
        **{name: last[name] for name in ("workload", "release", "power_mode")},
        **{name: sum(row[name] for row in rows) for name in ("answered", "errors", "throttled_s")},
        **{f"p{q}_ms": latency.quantile_s(counts, q / 100) * 1e3 for q in (50, 99)},
        "hottest_c": hottest if hottest > NO_HEAT else None,
        "until": last["end"],
    }


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


def _readable(rows: Sequence[dict[str, Any]], since: Mapping[str, float], spec: TensorSpec) -> Iterator[dict[str, Any]]:
    """Rows since each device's time, with their inputs as batches of one; a release before may have taken others."""
    for row in rows:
        if row["time"] >= since[row["device"]]:
            with contextlib.suppress(InputError):
                yield row | {"input": decoded(row["input"], row["encoding"], spec)}


def _stacked(inputs: Sequence[NDArray[np.generic]], spec: TensorSpec) -> NDArray[np.generic]:
    return np.concatenate([np.empty((0, *spec.shape[1:]), spec.dtype), *inputs])
