"""Bytes on the wire, sealed, with everything around them but TLS and the carrier's own few bytes a message."""

import json
from collections.abc import Sequence
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

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
    """Ratios to JSON a record, and the bytes of a window of 100 values × 20 features."""
    rng = np.random.default_rng(seed)
    manifest = _manifest(rng)
    rows = _rows(rng, HOUR)
    plain = sum(len(record) for record in _json(rows))
    windows, samples = _recorded(manifest, rows, WINDOW, 0.0), _recorded(manifest, rows, WINDOW, 1.0)
    window = _recorded(manifest, _rows(rng, 100), 100, 0.0)
    return {
        "summary_bytes_ratio": (windows.bytes_of("windows") + windows.opening) / plain,
        "sample_bytes_ratio": samples.bytes_of("samples") / plain,
        "window_bytes_20": window.bytes_of("windows"),
        "json_bytes_a_record": plain / HOUR,
    }


def _rows(rng: np.random.Generator, count: int) -> Rows:
    """Readings of 20 sensors that hang together, as they come: with noise in their last digits."""
    common = rng.normal(size=(count, 4)) @ rng.normal(size=(4, FEATURES))
    return (50 + 10 * common + rng.normal(size=(count, FEATURES))).astype(np.float32)


def _scores(rows: Rows) -> Rows:
    good = 1 / (1 + np.exp((rows.mean(axis=1) - 50) / 5))
    return np.stack([1 - good, good], axis=1).astype(np.float32)


def _json(rows: Rows) -> Sequence[bytes]:
    """A record of each prediction, as it would be logged; each number with the digits that a float32 needs."""
    scores = _scores(rows)
    return [
        json.dumps(
            {"time": 1.7e9 + second, "model": "pumps", "release": 1, "prediction_id": f"{second:024x}"}
            | {name: float(str(value)) for name, value in zip(NAMES, row, strict=True)}
            | {"scores": [float(str(value)) for value in score]}
        ).encode()
        for second, (row, score) in enumerate(zip(rows, scores, strict=True))
    ]


def _recorded(manifest: Manifest, rows: Rows, window: int, rate: float) -> Wire:
    out, now = Wire(), [1.7e9]
    recorder = Recorder(manifest, out.take, Span(window, lambda: now[0], lambda: now[0]), rate)
    for second, (row, score) in enumerate(zip(rows, _scores(rows), strict=True)):
        inputs, outputs = {"readings": row[None]}, {"scores": score[None], "monitors": row[None]}
        recorder.observe((f"{second:024x}",), inputs, outputs)
        now[0] += 1
        recorder.tick()
    recorder.close()
    return out


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
