"""What is said of a change: where, in which channels, since when and how much."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.drift.fault import fault
from skerry_cloud.drift.tilts import normal_scores, smooth
from skerry_shared.release import Channel
from skerry_shared.sketch import ANSWERS

DEVICE, GROUP, FLEET = "device", "group", "fleet"
LEVELS = (DEVICE, GROUP, FLEET)
DRIFT, DATA_QUALITY = "drift", "data-quality"  # kinds of alarms
DAY = 86400.0


class Place(NamedTuple):
    """Where: one device, a group or the whole fleet, in what runs one release of a workload."""

    level: str  # one of LEVELS
    name: str  # of the device or group; "" for the fleet
    workload: str
    release: int

    @property
    def model(self) -> tuple[str, int]:
        """Workload and release."""
        return self.workload, self.release

    def __str__(self) -> str:
        whole = {DEVICE: self.name, GROUP: f"group {self.name}", FLEET: "the fleet"}[self.level]
        return f"{whole}: {self.workload} release {self.release}"


@dataclass(frozen=True)
class Culprit:
    """A channel that changed. ``usual`` and ``now`` are the median, or the share of the bin that became more often."""

    channel: str
    evidence: float  # log10 of days: without a change it would take as long on average to see the like
    direction: str  # a word of ``tilts``, as "higher" or "missing", or "more often <range>", "less often <range>"
    usual: str
    now: str
    shift: float  # of the values' mean normal score, in standard deviations of the reference
    fault: str = ""  # what is wrong with the data themselves, see ``fault``; "" if the world changed


@dataclass(frozen=True)
class Alarm:
    """The inputs or answers of a release are not what they were. Times in Unix seconds."""

    place: Place
    devices: tuple[str, ...]  # that it is about
    channels: tuple[Culprit, ...]  # the strongest evidence first
    since: float  # start of the window where the evidence began
    at: float  # end of the window that tipped it
    again: bool = False  # the place alarmed before and was not reset; these channels changed further

    @property
    def kind(self) -> str:
        """Data-quality if every input that changed shows a fault of the data, so that labels and training are no
        answer; else drift."""
        faults = [culprit.fault for culprit in self.channels if culprit.channel not in ANSWERS]
        return DATA_QUALITY if faults and all(faults) else DRIFT


def summary(alarm: Alarm) -> str:
    """The alarm in one line."""
    since = datetime.fromtimestamp(alarm.since, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    first, *others = alarm.channels
    also = f", also {', '.join(culprit.channel for culprit in others)}" if others else ""
    change = first.fault or f"{first.direction} ({first.now}, usually {first.usual})"
    what = f"{'drifts' if alarm.kind == DRIFT else 'has faulty data'}{' further' if alarm.again else ''}"
    return f"{alarm.place} {what} since {since}: {first.channel} is {change}{also}"


def culprit(channel: Channel, word: str, spike: int, evidence: float, recent: NDArray[np.int64]) -> Culprit:
    """What the counts since the change say beside the reference; ``spike`` is the bin that became more often, or -1."""
    direction = f"{word} {_range(channel, spike)}" if word in ("more often", "less often") else word
    reference = np.asarray(channel.counts)
    usual, now = (_share(counts, spike) if spike >= 0 else _median(channel, counts) for counts in (reference, recent))
    z = normal_scores(channel)
    shift = recent @ z / max(recent.sum(), 1.0) - smooth(channel.counts) @ z
    broken = "" if channel.name in ANSWERS else fault(channel, recent)
    return Culprit(channel.name, evidence, direction, usual, now, float(shift), broken)


def log10_days(log_seconds: float) -> float:
    """Natural logarithm of seconds to log10 of days."""
    return (log_seconds - math.log(DAY)) / math.log(10)


def _median(channel: Channel, counts: NDArray[np.integer]) -> str:
    total = np.cumsum(counts)
    return f"median {_range(channel, int(np.searchsorted(total, total[-1] / 2)))}"


def _share(counts: NDArray[np.integer], place: int) -> str:
    return f"{counts[place] / max(counts.sum(), 1):.1%} of values"


def _range(channel: Channel, place: int) -> str:
    """The values of a bin, for people."""
    edges: Sequence[float] = channel.edges
    if place > len(edges):
        return "no value"
    if not edges:
        return "any value"
    if place == 0:
        return f"below {edges[0]:.4g}"
    if place == len(edges):
        return f"from {edges[-1]:.4g}"
    return f"{edges[place - 1]:.4g} to {edges[place]:.4g}"
