"""What one model saw and said, counted into windows and sampled.

Every answer is counted: the values of its channels (see ``skerry_shared.sketch``) fall into the bins of the bundle's
baseline, and a window of time gives one row. Some answers are sampled, each with a known probability (see
``sampling``).

On the hot path an answer costs a small copy and an append, and a sample a lock: the arithmetic is done for many
answers at once, and ``tick`` calls the sink, which may wait for a disk. Only where answers or samples outrun ``tick``
does their own thread pay.
What is observed after ``close`` (a request was in flight) is passed on at once.
"""

import math
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_edge.observe.arrow import Rows, pack
from skerry_edge.observe.sampling import FACTORS, MOST, Strata, paced
from skerry_edge.observe.span import Span
from skerry_shared import sketch, telemetry, windows
from skerry_shared.inputs import decoded
from skerry_shared.ports.runtime import Tensors
from skerry_shared.release import Manifest

Sink = Callable[[str, Rows], None]  # (table, rows, which are the sink's from now on); thread-safe, quick
Sample = tuple[float, str, bytes, str, bytes, str, float, float]  # time and what follows of table "samples"

FOLD = 1024  # examples counted at a time: 35-88 ns a value in batches, several µs one by one; rare enough for a p99
FEW, SAMPLES = 64, 256  # samples sent together, of a new model and later; more hardly take less bytes each
SAMPLE_BYTES = 1 << 20  # of their inputs; keeps a batch far below telemetry.MAX_BATCH
LARGEST = telemetry.MAX_BATCH // 2  # bytes of an input that can be a sample
PACE_S = 1.0  # after which the rate of sampling is set anew, by the answers that came meanwhile
FULL = 8  # batches of samples that may wait for tick
LEAST_S, MOST_S, SHARE = 5.0, 60.0, 0.1  # that a sample may wait; see patience


class Recorder:
    """Watches one model. Thread-safe."""

    def __init__(
        self, manifest: Manifest, sink: Sink, span: Span, sample_rate: float, draw: Callable[[], float] = random.random
    ) -> None:
        """``span`` gives the windows, ``draw`` uniform numbers in [0, 1); ``sample_rate`` is that of ``sample_at``."""
        self._manifest, self._sink = manifest, sink
        self._span, self._hold = span, Span(LEAST_S, span.clock, span.timer)
        self._born = span.timer()
        self._wanted = self._rate = sample_rate
        self._draw, self._pace = draw, Span(PACE_S, span.clock, span.timer)
        self._strata = Strata(manifest.baseline, len(manifest.labels))
        self._lock, self._closed = threading.Lock(), False
        self._row: np.dtype[Any] | None = None  # scores and monitors of an example
        self._seen = deque[bytes]()  # rows that are not counted yet, of one or more examples
        self._counted = self._paced = 0  # examples, and those that had come when the pace was set
        self._waiting = 0  # examples of them, about: a thread may forget what another adds at the same moment
        self._counts = self._zero()
        self._last = [math.nan] * len(manifest.baseline)  # value of each channel
        self._samples: list[Sample] = []
        self._sample_bytes = 0  # of their inputs
        self._full: list[list[Sample]] = []

    def observe(self, ids: Sequence[str], inputs: Tensors, outputs: Tensors) -> None:
        """Take in a batch of answers; all arrays are examples first."""
        scores, monitors = outputs["scores"], outputs.get("monitors")
        monitors = scores[:, :0] if monitors is None else monitors  # a workload may monitor nothing
        if self._row is None:
            self._row = _row(scores, monitors)
        self._seen.append(_packed(scores, monitors, self._row))
        self._waiting += len(ids)
        rate = self._rate
        for i in range(len(ids)):
            if (drawn := self._draw()) < rate * MOST:
                self._sample(drawn, rate, ids[i], inputs, scores, i)
        if self._waiting >= FOLD or self._closed:
            self._attend()

    def sample_at(self, rate: float) -> None:
        """Sample this share of all answers from now on, 0 to 1, and more of those that ``sampling`` prefers.

        Where they come quickly it is less from the next ``tick`` on, and comes back by doubling (``sampling.paced``).
        """
        with self._lock:
            self._wanted = self._rate = rate

    def tick(self) -> None:
        """Pass on what is due. Call it about once a second, in a thread that may wait for the sink."""
        with self._lock:
            if self._waiting >= FOLD / 2:  # or requests would have to before the next call
                self._fold()
            if self._pace.over:
                self._set_pace()
            ready = self._due()
        self._emit(ready)

    def close(self) -> None:
        """Pass on everything now, and from now on at once."""
        with self._lock:
            self._closed = True
            ready = self._due()
        self._emit(ready)

    def _set_pace(self) -> None:
        """Sample as often as suits what came since the last time. Holds the lock."""
        self._fold()
        self._rate = paced(self._wanted, (self._counted - self._paced) / self._pace.lasted, self._rate)
        self._paced = self._counted
        self._pace.next()

    def _due(self) -> list[tuple[str, Rows]]:
        """Take out the rows whose time has come. Holds the lock."""
        if self._closed or self._hold.over:
            self._finish_samples()
        ready = [("samples", self._rows_of(batch)) for batch in self._full]
        self._full = []
        if self._closed or self._span.over:
            ready.append(("windows", self._take_window()))
        return ready

    def _emit(self, ready: list[tuple[str, Rows]]) -> None:
        for table, rows in ready:
            if any(rows.values()):
                self._sink(table, rows)

    def _take_window(self) -> Rows:
        self._fold()
        rows, (start, end), counts = _empty("windows"), self._span.next(), self._counts
        self._counts = self._zero()
        if any(bins.any() for bins in counts):
            _append(rows, (self._manifest.workload, self._manifest.release, start, end, windows.pack(counts)))
        return rows

    def _attend(self) -> None:
        with self._lock:
            self._fold()
            ready = self._due() if self._closed else []
        self._emit(ready)

    def _fold(self) -> None:
        """Count what was seen so far. Holds the lock."""
        self._waiting = 0
        if seen := b"".join([self._seen.popleft() for _ in range(len(self._seen))]):
            rows = np.frombuffer(seen, self._row)
            self._count(rows["scores"], rows["monitors"])

    def _count(self, scores: NDArray[Any], monitors: NDArray[Any]) -> None:
        values = sketch.channel_values(scores, monitors)
        for i, channel in enumerate(self._manifest.baseline):
            fresh = sketch.count(channel, values[:, i], self._last[i])
            self._counts[i] += fresh
            if channel.name == sketch.CLASS:
                self._strata.saw(fresh)
        self._last = values[-1].tolist()
        self._counted += len(values)

    def _sample(self, drawn: float, rate: float, name: str, inputs: Tensors, scores: NDArray[Any], i: int) -> None:
        """Example ``i`` is a sample if its stratum is drawn so often."""
        stratum = self._strata.of(scores[i])
        if drawn >= (probability := rate * FACTORS[stratum]):
            return
        (tensor,), (spec,) = inputs.values(), self._manifest.inputs
        example, why = tensor[i], telemetry.AUDIT if drawn < rate else stratum
        if example.nbytes <= LARGEST:
            raw, answer = example.tobytes(), np.asarray(scores[i], np.float32).tobytes()
            sample = (self._span.clock(), name, raw, spec.dtype, answer, why, min(1.0, probability), rate)
            self._take_sample(sample, len(raw))

    def _take_sample(self, sample: Sample, size: int) -> None:
        with self._lock:
            self._samples.append(sample)
            self._sample_bytes += size
            enough = FEW if self._hold.seconds <= LEAST_S else SAMPLES
            if len(self._samples) >= enough or self._sample_bytes >= SAMPLE_BYTES:
                self._finish_samples()
            ready = self._due() if len(self._full) >= FULL else []
        self._emit(ready)

    def _finish_samples(self) -> None:
        self._full.append(self._samples)
        self._samples, self._sample_bytes = [], 0
        self._hold.next()
        self._hold.seconds = patience(self._hold.timer() - self._born)

    def _rows_of(self, samples: Sequence[Sample]) -> Rows:
        rows, model = _empty("samples"), (self._manifest.workload, self._manifest.release)
        for sample in samples:
            _append(rows, (*model, *sample))
        return rows

    def _zero(self) -> list[NDArray[np.int64]]:
        return [np.zeros(len(channel.counts), dtype=np.int64) for channel in self._manifest.baseline]


def _row(scores: NDArray[Any], monitors: NDArray[Any]) -> "np.dtype[Any]":
    return np.dtype([("scores", scores.dtype, scores.shape[1:]), ("monitors", monitors.dtype, monitors.shape[1:])])


def _packed(scores: NDArray[Any], monitors: NDArray[Any], row: "np.dtype[Any]") -> bytes:
    """A copy, for the arrays are the application's to change; one object, for a thousand of them are cold memory when
    they are counted."""
    if len(scores) == 1:
        return scores.tobytes() + monitors.tobytes()
    rows = np.empty(len(scores), row)
    rows["scores"], rows["monitors"] = scores, monitors
    return rows.tobytes()


def patience(served_s: float) -> float:
    """Seconds that a sample may wait for others. A new model is being proven by its samples, so these hurry; those of a
    model that has served for long take a third of the bytes together."""
    return min(max(served_s * SHARE, LEAST_S), MOST_S)


def read_samples(manifest: Manifest, rows: Rows) -> Iterator[tuple[str, Tensors, NDArray[np.float32]]]:
    """Prediction id, input (a batch of one) and scores of each sample of this model among rows of table "samples" that
    was drawn from all answers alike. Raises InputError."""
    (spec,), wanted = manifest.inputs, (manifest.workload, manifest.release, telemetry.AUDIT)
    columns = (
        rows[name] for name in ("workload", "release", "stratum", "prediction_id", "input", "encoding", "scores")
    )
    for *what, prediction_id, raw, encoding, answer in zip(*columns, strict=True):
        if tuple(what) == wanted:
            tensors = {spec.name: decoded(raw, encoding, spec)}
            yield prediction_id, tensors, np.frombuffer(answer, np.float32)


def label_rows(time: float, pairs: Sequence[tuple[str, str]]) -> bytes:
    """The packed batch of table "labels" with the late truth of earlier predictions: (prediction id, label) each."""
    names, labels = zip(*pairs, strict=True)
    return pack("labels", {"time": [time] * len(pairs), "prediction_id": names, "label": labels})


def _empty(table: str) -> Rows:
    return {column: [] for column in telemetry.TABLES[table]}


def _append(rows: Rows, values: tuple[Any, ...]) -> None:
    """One row; the values are in the order of the table's columns."""
    for column, value in zip(rows.values(), values, strict=True):
        column.append(value)
