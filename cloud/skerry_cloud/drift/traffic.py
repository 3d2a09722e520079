"""The traffic of one release of a workload: e-detectors for its devices, and for pools of them."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.drift.bank import Bank
from skerry_cloud.drift.finding import DEVICE, FLEET, GROUP, Culprit, Place, culprit, log10_days
from skerry_cloud.drift.tilts import Floats, Tilts
from skerry_shared.release import Channel

Pool = tuple[str, str]  # level and name


class Window(NamedTuple):
    """A row of table "windows": one channel. Times in Unix seconds."""

    device: str
    workload: str
    release: int
    start: float
    end: float
    channel: str
    counts: NDArray[np.int64]

    @property
    def key(self) -> tuple[str, str, int]:
        """Who sent it."""
        return self[:3]


@dataclass(frozen=True)
class Known:
    """What is normal for a device and release (nothing: it is not judged), and the device's group ("": none)."""

    channels: Sequence[Channel]
    group: str = ""


@dataclass
class Series:
    """One channel of the devices that share a reference."""

    channel: Channel
    tilts: Tilts
    bank: Bank[str]
    recent: dict[str, NDArray[np.int64]] = field(default_factory=dict)  # counts since the evidence began

    def take(self, windows: Sequence[Window]) -> Floats:
        """Take in one window a device at most; their log likelihoods, n × J."""
        gains = self.tilts.log_likelihoods(np.array([window.counts for window in windows]))
        places = np.array([self.bank.row(window.device) for window in windows])
        starts, ends = (np.array([getattr(window, side) for window in windows]) for side in ("start", "end"))
        self.bank.take(places, gains, starts, ends)
        for window, since in zip(windows, self.bank.since(places), strict=True):
            before = self.recent.get(window.device) if since < window.start else None
            self.recent[window.device] = window.counts if before is None else before + window.counts
        return gains


@dataclass(frozen=True)
class Member:
    """A device: its series by channel, and its group."""

    group: str
    series: dict[str, Series]

    def pools(self) -> list[Pool]:
        """What it belongs to."""
        return pools_of(self.group)


@dataclass
class Traffic:
    """All that is judged about one release. A pool of one would be that one again, so it is none."""

    tolerance: float
    members: dict[str, Member] = field(default_factory=dict)
    series: dict[Channel, Series] = field(default_factory=dict)
    pools: dict[tuple[str, int], Bank[Pool]] = field(default_factory=dict)  # by channel and number of alternatives

    def join(self, device: str, known: Known) -> None:
        """From now on this device belongs here."""
        series = {channel.name: self._series(channel) for channel in known.channels}
        self.members[device] = Member(known.group, series)
        for found in series.values():
            found.bank.row(device)

    def knows(self, device: str, known: Known) -> bool:
        """Is it here with just this?"""
        member = self.members[device]
        return (member.group, [found.channel for found in member.series.values()]) == (known.group, [*known.channels])

    def leave(self, device: str) -> None:
        """It no longer does."""
        for series in self.members.pop(device).series.values():
            series.bank.remove(device)
            series.recent.pop(device, None)

    def reset(self, devices: Iterable[str]) -> None:
        """Judge these devices anew, and the pools with them."""
        for device in devices:
            for series in self.members[device].series.values():
                series.bank.reset(device)
                series.recent.pop(device, None)
        for bank in self.pools.values():
            for pool in bank.rows:
                bank.reset(pool)

    def take(self, windows: Iterable[Window]) -> float:
        """Take in one window a device and channel at most; log of the highest R of the channels that had one."""
        parts: defaultdict[tuple[str, Channel], list[Window]] = defaultdict(list)
        for window in windows:
            parts[window.channel, self.members[window.device].series[window.channel].channel].append(window)
        pooled: defaultdict[tuple[str, int], list[tuple[Window, Floats]]] = defaultdict(list)
        highest = -math.inf
        for (name, channel), part in parts.items():
            series = self.series[channel]
            gains = series.take(part)
            pooled[name, gains.shape[1]] += zip(part, gains, strict=True)
            highest = max(highest, series.bank.highest())
        sizes = self.sizes()
        for (name, _), part_and_gains in pooled.items():
            highest = max(highest, self._take_pools(name, part_and_gains, sizes))
        return highest

    def sizes(self) -> Counter[Pool]:
        """How many devices each pool has; those with one are none."""
        sizes = Counter(pool for member in self.members.values() for pool in member.pools())
        return Counter({pool: size for pool, size in sizes.items() if size > 1})

    def devices(self, place: Place) -> list[str]:
        """Who is meant."""
        if place.level == DEVICE:
            return [place.name] if place.name in self.members else []
        return [name for name, member in self.members.items() if (place.level, place.name) in member.pools()]

    def statistic(self, place: Place) -> float:
        """log of R: the mean over the channels of what the place runs."""
        rows = [bank.statistic[bank.rows[key]] for bank, key in self._rows(place).values()]
        return float(np.logaddexp.reduce(rows) - math.log(len(rows))) if rows else -math.inf

    def drifts_as_a_whole(self, place: Place) -> bool:
        """Do all members drift, and not some of them? A Bayes factor, by the strongest channel and alternative."""
        name, (bank, key) = max(self._rows(place).items(), key=lambda item: _statistic(*item[1]))
        best = bank.best(key)
        banks = (self.members[device].series[name].bank for device in self.devices(place))
        mine = zip(self.devices(place), banks, strict=True)
        evidence = [found.cusum[found.rows[device], best] for device, found in mine if found.width == bank.width]
        return bool(np.sum(np.logaddexp(0.0, -np.array(evidence)) - math.log(2)) <= 0)

    def since(self, place: Place, channels: Sequence[str]) -> float:
        """Start of the window where the evidence in these channels began."""
        rows = self._rows(place)
        found = (rows[name] for name in channels)
        return min(float(bank.since(np.array([bank.rows[key]]))[0]) for bank, key in found)

    def culprits(self, place: Place, devices: Sequence[str], log_limit: float) -> list[Culprit]:
        """The channels whose R is at the limit or above, the strongest first; the strongest one at least."""
        rows = sorted(self._rows(place).items(), key=lambda item: -_statistic(*item[1]))
        guilty = [(name, row) for name, row in rows if _statistic(*row) >= log_limit] or rows[:1]
        return [self._culprit(name, *row, devices) for name, row in guilty]

    def _culprit(self, name: str, bank: Bank[Any], key: Any, devices: Sequence[str]) -> Culprit:
        best = bank.best(key)
        series = next(
            series for device in devices if (series := self.members[device].series[name]).bank.width == bank.width
        )
        sharing = (device for device in devices if device in series.recent)
        recent = sum((series.recent[device] for device in sharing), np.zeros(len(series.channel.counts), np.int64))
        word, spike = series.tilts.words[best], int(series.tilts.bins[best])
        return culprit(series.channel, word, spike, log10_days(_statistic(bank, key)), recent)

    def _series(self, channel: Channel) -> Series:
        if channel not in self.series:
            tilts = Tilts.of(channel, self.tolerance)
            self.series[channel] = Series(channel, tilts, Bank(tilts.log_weights))
        return self.series[channel]

    def _take_pools(self, name: str, part: Sequence[tuple[Window, Floats]], sizes: Counter[Pool]) -> float:
        found: defaultdict[Pool, list[int]] = defaultdict(list)
        for place, (window, _) in enumerate(part):
            for pool in self.members[window.device].pools():
                if pool in sizes:
                    found[pool].append(place)
        if not found:
            return -math.inf
        gains = np.array([gain for _, gain in part])
        bank = self._pool(name, gains.shape[1])
        starts = np.array([min(part[place][0].start for place in places) for places in found.values()])
        ends = np.array([max(part[place][0].end for place in places) for places in found.values()])
        sums = np.array([gains[places].sum(axis=0) for places in found.values()])
        bank.take(np.array([bank.row(pool) for pool in found]), sums, starts, ends)
        return bank.highest()

    def _pool(self, name: str, width: int) -> Bank[Pool]:
        if (name, width) not in self.pools:
            like = (s for s in self.series.values() if s.channel.name == name and s.bank.width == width)
            self.pools[name, width] = Bank(next(like).tilts.log_weights)
        return self.pools[name, width]

    def _rows(self, place: Place) -> dict[str, tuple[Bank[Any], Any]]:
        """The place's banks and its key in them, by channel; of a pool's banks for a channel, the strongest."""
        if place.level == DEVICE:
            member = self.members.get(place.name)
            return {name: (series.bank, place.name) for name, series in member.series.items()} if member else {}
        pool = place.level, place.name
        banks = sorted((bank.statistic[bank.rows[pool]], name, width) for (name, width), bank in self.pools.items()
                       if pool in bank.rows)  # fmt: skip
        return {name: (self.pools[name, width], pool) for _, name, width in banks}


def pools_of(group: str) -> list[Pool]:
    """What a device of this group belongs to."""
    return [(GROUP, group), (FLEET, "")] if group else [(FLEET, "")]


def _statistic(bank: Bank[Any], key: Any) -> float:
    return float(bank.statistic[bank.rows[key]])
