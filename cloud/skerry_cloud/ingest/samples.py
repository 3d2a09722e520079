"""What is in the lake: how much of whom, and sampled inputs joined with the truth that came later."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from skerry_cloud.ingest.lake import Lake
from skerry_shared.release import TensorSpec
from skerry_shared.telemetry import TABLES

LOAD = ("waited", "shared", "shed", "expired", "refused")  # counts of table "load"


@dataclass(frozen=True)
class Labelled:
    """n inputs (n × the raw shape), their labels as places in the workload's ``labels``, and their devices."""

    inputs: NDArray[np.generic]
    labels: NDArray[np.int64]
    sources: Sequence[str]


def labelled(
    lake: Lake, workload: str, since: Mapping[str, float], spec: TensorSpec, labels: Sequence[str]
) -> Labelled:
    """Samples of these devices, each since its own time (Unix seconds), that have a label; the last label counts.

    A label that the workload does not know is as good as none.
    """
    mine = pc.field("device").isin(list(since))
    wanted = mine & (pc.field("workload") == workload) & (pc.field("time") >= min(since.values()))
    samples = lake.scan("samples", ["device", "time", "prediction_id", "input"], wanted)
    truths = lake.scan("labels", ["device", "prediction_id", "label", "time"], mine).sort_by("time")
    places = {label: place for place, label in enumerate(labels)}
    truth = {
        (row["device"], row["prediction_id"]): places[row["label"]]
        for row in truths.to_pylist()
        if row["label"] in places
    }
    size = np.dtype(spec.dtype).itemsize * math.prod(spec.shape[1:])  # a release before may have taken another input
    known = [
        row
        for row in samples.to_pylist()
        if row["time"] >= since[row["device"]]
        and (row["device"], row["prediction_id"]) in truth
        and len(row["input"]) == size
    ]
    return Labelled(
        _inputs([row["input"] for row in known], spec),
        np.array([truth[row["device"], row["prediction_id"]] for row in known], dtype=np.int64),
        [row["device"] for row in known],
    )


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


def _overload(lake: Lake) -> Iterator[tuple[str, dict[str, Any]]]:
    """The sums of table "load", by device and model."""
    model = ["device", "workload", "release"]
    rows = lake.scan("load", [*model, *LOAD, "end"]).group_by(model)
    sums = rows.aggregate([*((name, "sum") for name in LOAD), ("end", "max")])
    for row in sums.sort_by([(name, "ascending") for name in model]).to_pylist():
        counts = {name: row[f"{name}_sum"] for name in LOAD}
        yield row["device"], {"workload": row["workload"], "release": row["release"], **counts, "until": row["end_max"]}


def _inputs(raw: Sequence[bytes], spec: TensorSpec) -> NDArray[np.generic]:
    return np.frombuffer(b"".join(raw), dtype=spec.dtype).reshape(-1, *spec.shape[1:])
