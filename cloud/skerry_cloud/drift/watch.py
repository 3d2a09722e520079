"""Which device drifts, in what, and since when: the test of ``tilts`` over the windows that devices report.

A model on a device has one statistic: the mean over its channels. When that reaches the run length A an alarm is raised
once, and nothing more is judged until ``reset``. Without any change an alarm comes after A windows or later on average.

>>> watch = Watch(run_length=1000)
>>> alarms = watch.fold(rows, {("digits", 3): manifest.baseline})  # doctest: +SKIP
>>> summary(alarms[0])  # doctest: +SKIP
'dev-2: input of digits release 3 drifted since 2026-11-22 10:15:00 UTC: brightness is lower (…)'
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.drift.tilts import Floats, Tilts, advance, log_mean
from skerry_shared.release import Channel

SEEN = 4096  # windows a device and model that are recognised when they come again

Baselines = Mapping[tuple[str, int], Sequence[Channel]]


@dataclass(frozen=True)
class Culprit:
    """A channel that changed. Bins are given as ranges of values; ``usual`` and ``now`` hold the median."""

    channel: str
    evidence: float  # log10 of its mean R: 3 would come once in 1000 windows without a change
    direction: str  # "higher", "lower", "wider", "narrower", "more extreme", "missing", "more often <range>"
    usual: str
    now: str


@dataclass(frozen=True)
class Alarm:
    """The inputs or answers of one model on one device are not what they were. Times in Unix seconds."""

    device: str
    workload: str
    release: int
    channels: tuple[Culprit, ...]  # the strongest evidence first
    since: float  # start of the window where the evidence began
    at: float  # end of the window that tipped it
    windows: int  # judged until then
    run_length: int


class Watch:
    """Folds windows; keeps its state in memory, so that a restart folds the lake's rows again."""

    def __init__(self, run_length: int) -> None:
        """``run_length``: windows between false alarms of one model on one device, on average and at least."""
        self._run_length = run_length
        self._models: dict[tuple[str, str, int], _Model] = {}

    def fold(self, rows: Iterable[Mapping[str, Any]], baselines: Baselines) -> list[Alarm]:
        """Take in rows of table "windows" of any devices, in any order, and return the alarms that they raise.

        A row that was taken before changes nothing, nor does one without a baseline for its model and channel.
        """
        ordered = sorted(rows, key=itemgetter("start", "device", "workload", "release"))
        alarms = []
        for (start, *key), window in groupby(ordered, key=itemgetter("start", "device", "workload", "release")):
            device, workload, release = key
            if (workload, release) in baselines:
                model = self._model((device, workload, release), baselines[workload, release])
                alarm = model.judge(start, list(window), self._run_length)
                alarms += [alarm] if alarm else []
        return alarms

    def evidence(self, device: str, workload: str, release: int) -> float:
        """log10 of the statistic now; minus infinity if nothing was judged."""
        model = self._models.get((device, workload, release))
        return model.log_statistic / math.log(10) if model else -math.inf

    def reset(self, device: str, workload: str, release: int) -> None:
        """Judge this model on this device anew, from now on."""
        model = self._models.get((device, workload, release))
        if model is not None:
            model.reset()

    def _model(self, key: tuple[str, str, int], baseline: Sequence[Channel]) -> "_Model":
        if key not in self._models:
            self._models[key] = _Model(key, {channel.name: _Detector(channel) for channel in baseline})
        return self._models[key]


@dataclass
class _Model:
    key: tuple[str, str, int]
    detectors: "dict[str, _Detector]"
    windows: int = 0
    alarmed: bool = False
    _seen: "OrderedDict[tuple[str, float], None]" = field(default_factory=OrderedDict)

    @property
    def log_statistic(self) -> float:
        return float(log_mean(np.array([detector.log_statistic for detector in self.detectors.values()])))

    def judge(self, start: float, rows: list[Mapping[str, Any]], run_length: int) -> Alarm | None:
        new = [row for row in rows if self._is_new(row["channel"], start)]
        if self.alarmed or not new:
            return None
        self.windows += 1
        for row in new:
            self.detectors[row["channel"]].take(np.asarray(row["counts"]), start)
        if self.log_statistic < math.log(run_length):
            return None
        self.alarmed = True
        return self._alarm(max(row["end"] for row in new), run_length)

    def reset(self) -> None:
        self.windows, self.alarmed = 0, False
        for detector in self.detectors.values():
            detector.reset()

    def _is_new(self, channel: str, start: float) -> bool:
        if channel not in self.detectors or (channel, start) in self._seen:
            return False
        self._seen[channel, start] = None
        while len(self._seen) > SEEN * len(self.detectors):
            self._seen.popitem(last=False)
        return True

    def _alarm(self, at: float, run_length: int) -> Alarm:
        """Names the channels that would have alarmed alone: at least one, as the statistic is their mean."""
        guilty = sorted(self.detectors.values(), key=lambda detector: -detector.log_statistic)
        guilty = [detector for detector in guilty if detector.log_statistic >= math.log(run_length)]
        since = min(detector.since for detector in guilty)
        culprits = tuple(detector.culprit() for detector in guilty)
        return Alarm(*self.key, culprits, since, at, self.windows, run_length)


class _Detector:
    """One channel of one model on one device."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._tilts = channel, Tilts.of(channel.counts)
        self.reset()

    def reset(self) -> None:
        alternatives = len(self._tilts.words)
        self._log_r: Floats = np.full(alternatives, -np.inf)
        self._cusum: Floats = np.zeros(alternatives)  # log-likelihood ratio since the likeliest change
        self._began: Floats = np.full(alternatives, np.nan)  # start of the window of that change
        self._last: NDArray[np.int64] = np.asarray(self._channel.counts)

    @property
    def log_statistic(self) -> float:
        return float(log_mean(self._log_r))

    @property
    def since(self) -> float:
        return float(self._began[self._best])

    def take(self, counts: NDArray[np.int64], start: float) -> None:
        """A window's counts; another number of bins than the baseline's tells nothing."""
        if counts.shape != self._last.shape or not counts.any():
            return
        gain = self._tilts.log_likelihoods(counts)
        self._log_r = advance(self._log_r, gain)
        self._began[self._cusum <= 0] = start
        self._cusum = np.maximum(self._cusum, 0.0) + gain
        self._last = counts

    def culprit(self) -> Culprit:
        usual, now = (self._range(_median_bin(counts)) for counts in (self._channel.counts, self._last))
        return Culprit(self._channel.name, self.log_statistic / math.log(10), self._direction(), usual, now)

    @property
    def _best(self) -> int:
        return int(self._log_r.argmax())

    def _direction(self) -> str:
        word, spike = self._tilts.words[self._best], int(self._tilts.bins[self._best])
        return f"{word} {self._range(spike)}" if word == "more often" else word

    def _range(self, place: int) -> str:
        """The values of a bin, for people."""
        edges = self._channel.edges
        if place > len(edges):
            return "missing"
        if not edges:
            return "any value"
        if place == 0:
            return f"below {edges[0]:.4g}"
        if place == len(edges):
            return f"from {edges[-1]:.4g}"
        return f"{edges[place - 1]:.4g} to {edges[place]:.4g}"


def summary(alarm: Alarm) -> str:
    """The alarm in one line."""
    since = datetime.fromtimestamp(alarm.since, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    first, *others = alarm.channels
    also = f", also {', '.join(culprit.channel for culprit in others)}" if others else ""
    change = f"{first.channel} is {first.direction} (median {first.now}, usually {first.usual})"
    return f"{alarm.device}: {alarm.workload} release {alarm.release} drifts since {since}: {change}{also}"


def _median_bin(counts: Sequence[int] | NDArray[np.int64]) -> int:
    total = np.cumsum(counts)
    return int(np.searchsorted(total, total[-1] / 2))
