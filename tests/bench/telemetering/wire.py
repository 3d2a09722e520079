"""Bytes on the wire, sealed, with everything around them but TLS and the carrier's own few bytes a message."""

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_edge.observe.arrow import pack
from skerry_edge.observe.homeward import Homeward
from skerry_edge.observe.recorder import Recorder
from skerry_edge.observe.span import Span
from skerry_shared import identity, sketch, wire
from skerry_shared.release import ANY, Lineage, Manifest, Measured, Target, TensorSpec
from skerry_shared.sealing import IngestKey, Sealer
from skerry_shared.telemetry import Up

FEATURES, LABELS = 20, ("bad", "good")
NAMES = tuple(f"sensor_{place}" for place in range(FEATURES))
HOUR, WINDOW = 3600, 60  # seconds; one prediction a second
REFERENCE = 4000  # rows
USUAL = np.random.default_rng(0).normal(size=(4, FEATURES))  # how the sensors hang together; else they drifted
AMPLE = 1e9  # bytes of samples a day: all of them go

Rows = NDArray[np.float32]


class Wire:
    """Where a recorder's batches go: sealed and counted."""

    def __init__(self) -> None:
        key, authority = identity.new_key(), identity.Authority.new("north", datetime.now(timezone.utc))
        request = identity.request("pump-7", key)
        certificate = authority.sign_request(request, "pump-7", datetime.now(timezone.utc), 1)
        self._sealer = Sealer("north", "pump-7", certificate, key, IngestKey.new().public_bytes())
        self.opening = len(wire.encode(Up(session=self._sealer.opening, next=1)))
        self.batches: list[tuple[str, int]] = []  # table, bytes

    def take(self, table: str, payload: bytes) -> None:
        """A batch goes out."""
        self.batches.append((table, len(wire.encode(Up(batch=self._sealer.seal(table, payload))))))

    def bytes_of(self, table: str) -> int:
        """All batches of a table together."""
        return sum(size for name, size in self.batches if name == table)


def measure(seed: int = 0) -> dict[str, float]:
    """Ratios to JSON a record, and the bytes of a window of 100 values × 20 features, as usual and after a drift."""
    rng = np.random.default_rng(seed)
    manifest = _manifest(rng)
    rows = _rows(rng, HOUR)
    plain = sum(len(record) for record in _json(rows))
    windows, exact = _recorded(manifest, rows, WINDOW, 0.0), _recorded(manifest, rows, WINDOW, 1.0)
    lossy = _recorded(manifest, rows, WINDOW, 1.0, lossy=True)
    window, drifted = (_recorded(manifest, rows, 100, 0.0) for rows in (_rows(rng, 100), _rows(rng, 100, drift=True)))
    return {
        "summary_bytes_ratio": (windows.bytes_of("windows") + windows.opening) / plain,
        "sample_lossless_ratio": exact.bytes_of("samples") / plain,
        "sample_bytes_ratio": lossy.bytes_of("samples") / plain,
        "window_bytes_20": window.bytes_of("windows"),
        "drifted_window_bytes_20": drifted.bytes_of("windows"),
        "json_bytes_a_record": plain / HOUR,
    }


def _rows(rng: np.random.Generator, count: int, drift: bool = False) -> Rows:
    """Readings of 20 sensors that hang together, as they come: with noise in their last digits."""
    common = rng.normal(size=(count, 4)) @ (rng.normal(size=(4, FEATURES)) if drift else USUAL)
    return (50 + 10 * common + rng.normal(size=(count, FEATURES))).astype(np.float32)


def _time(second: int) -> float:
    """Unix seconds, with all the digits that a clock has."""
    return 1.7e9 + 1 / 3 + second * (1 + 1 / 3000)


def _scores(rows: Rows) -> Rows:
    good = 1 / (1 + np.exp((rows.mean(axis=1) - 50) / 5))
    return np.stack([1 - good, good], axis=1).astype(np.float32)


def _json(rows: Rows) -> Sequence[bytes]:
    """A record of each prediction, as it would be logged; each number with the digits that a float32 needs."""
    scores = _scores(rows)
    return [
        json.dumps(
            {"time": _time(second), "model": "pumps", "release": 1, "prediction_id": f"{second:024x}"}
            | {name: float(str(value)) for name, value in zip(NAMES, row, strict=True)}
            | {"scores": [float(str(value)) for value in score]}
        ).encode()
        for second, (row, score) in enumerate(zip(rows, scores, strict=True))
    ]


def _recorded(manifest: Manifest, rows: Rows, window: int, rate: float, lossy: bool = False) -> Wire:
    out, now = Wire(), [_time(0)]
    homeward = Homeward(AMPLE, lossy, out.take, _never, lambda: now[0])

    def sink(table: str, observed: dict[str, list[Any]]) -> None:
        if table == "samples":
            homeward.send(observed)
        else:
            out.take(table, pack(table, observed))

    recorder = Recorder(manifest, sink, Span(window, lambda: now[0], lambda: now[0]), rate)
    for second, (row, score) in enumerate(zip(rows, _scores(rows), strict=True)):
        inputs, outputs = {"readings": row[None]}, {"scores": score[None], "monitors": row[None]}
        recorder.observe((f"{second:024x}",), inputs, outputs)
        now[0] = _time(second + 1)
        recorder.tick()
    recorder.close()
    return out


def _never(table: str, why: str) -> None:
    raise AssertionError(f"{table}: {why}")


def _manifest(rng: np.random.Generator) -> Manifest:
    rows = _rows(rng, REFERENCE)
    values = sketch.channel_values(_scores(rows), rows)
    return Manifest(
        workload="pumps", release=1, owner="bench", labels=LABELS,
        inputs=(TensorSpec("readings", "float32", (ANY, FEATURES)),),
        outputs=(TensorSpec("scores", "float32", (ANY, 2)), TensorSpec("monitors", "float32", (ANY, FEATURES))),
        target=Target("generic-x86-64", "x86_64", "onnxruntime", "float32"), measured=Measured(0, 0, 0, 0),
        lineage=Lineage(1, "", 1, ""), baseline=sketch.baseline(sketch.channel_names(NAMES), values, len(LABELS)),
        tolerance=0.0, model_file="model.onnx",
    )  # fmt: skip
