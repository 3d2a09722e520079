"""The traffic of one release of a workload: e-detectors for its devices, and for pools of them."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.drift.bank import Bank, Places
from skerry_cloud.drift.finding import DEVICE, FLEET, GROUP, Culprit, Place, culprit, log10_days
from skerry_cloud.drift.tilts import Floats, Tilts
from skerry_shared.release import Channel

Pool = tuple[str, str]  # level and name

ENOUGH = 5  # members that were heard speak for a pool: they are 2⁵ to one
PATIENCE = 3  # windows without a sign of life, until a member is not waited for


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


@dataclass(frozen=True)
class Part:
    """Windows of one moment as arrays: log L (n × J), counts (n × K), start and end (n)."""

    gains: Floats
    counts: Places
    starts: Floats
    ends: Floats

    def pooled(self, pools: Sequence[Places]) -> "Part":
        """Each list of places as one window."""
        return Part(
            np.array([self.gains[places].sum(axis=0) for places in pools]),
            np.array([self.counts[places].sum(axis=0) for places in pools]),
            np.array([self.starts[places].min() for places in pools]),
            np.array([self.ends[places].max() for places in pools]),
        )


@dataclass
class Series:
    """One channel of the devices that share a reference."""

    channel: Channel
    tilts: Tilts
    bank: Bank[str]

    def take(self, windows: Sequence[Window]) -> Part:
        """Take in one window a device at most."""
        counts = np.concatenate([window.counts for window in windows]).reshape(len(windows), -1)
        starts, ends = np.array([(window.start, window.end) for window in windows]).T
        part = Part(self.tilts.log_likelihoods(counts), counts, starts, ends)
        places = np.array([self.bank.rows[window.device] for window in windows])
        self.bank.take(places, part.gains, counts, starts, ends)
        return part


@dataclass(frozen=True)
class Member:
    """A device: its group, its series by channel, and the pools that it belongs to."""

    group: str
    series: dict[str, Series]
    pools: tuple[Pool, ...]


@dataclass
class Traffic:
    """All that is judged about one release. A pool of one would be that one again, so it is none."""

    tolerance: float
    members: dict[str, Member] = field(default_factory=dict)
    series: dict[Channel, Series] = field(default_factory=dict)
    pools: dict[tuple[str, int], Bank[Pool]] = field(default_factory=dict)  # by channel and number of alternatives
    muted: frozenset[str] = frozenset()  # devices that are known to drift, and are not held against their pools

    def join(self, device: str, known: Known) -> None:
        """From now on this device belongs here."""
        series = {channel.name: self._series(channel) for channel in known.channels}
        self.members[device] = Member(known.group, series, pools_of(known.group))
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

    def restart(self, devices: Iterable[str]) -> None:
        """Judge these devices anew."""
        for device in devices:
            for series in self.members[device].series.values():
                series.bank.reset(device)

    def reset(self, devices: Iterable[str]) -> None:
        """Judge these devices anew, and the pools with them."""
        self.restart(devices)
        for bank in self.pools.values():
            for pool in bank.rows:
                bank.reset(pool)

    def take(self, parts: Iterable[tuple[Series, Sequence[Window]]]) -> float:
        """Take in one window a device and channel at most; log of the highest R of the channels that had one."""
        sizes, highest = self.sizes(), -math.inf
        together: defaultdict[tuple[str, int], list[tuple[Sequence[Window], Part]]] = defaultdict(list)
        for series, windows in parts:
            together[series.channel.name, series.bank.width].append((windows, series.take(windows)))
            highest = max(highest, series.bank.highest())
        devices, pools = list[str](), dict[Pool, Places]()
        for key, found in together.items():
            here = [window.device for windows, _ in found for window in windows]
            if here != devices:  # most channels have the same ones
                devices, pools = here, self._pools(here, sizes)
            bank = self._take_pools(key, [part for _, part in found], pools) if pools else None
            highest = max(highest, bank.highest() if bank else -math.inf)
        return highest

    def sizes(self) -> Counter[Pool]:
        """How many devices each pool has; those with one are none."""
        sizes = Counter(pool for member in self.members.values() for pool in member.pools)
        return Counter({pool: size for pool, size in sizes.items() if size > 1})

    def devices(self, place: Place) -> list[str]:
        """Who is meant."""
        if place.level == DEVICE:
            return [place.name] if place.name in self.members else []
        return [name for name, member in self.members.items() if (place.level, place.name) in member.pools]

    def statistic(self, place: Place) -> float:
        """log of R: the mean over the channels of what the place runs."""
        rows = [bank.statistic[bank.rows[key]] for bank, key in self._rows(place).values()]
        return float(np.logaddexp.reduce(rows) - math.log(len(rows))) if rows else -math.inf

    def drifts_as_a_whole(self, place: Place) -> bool:
        """Do all members drift, and not some of them? A Bayes factor by the strongest channel and alternative, of those
        who were heard since it began: two of them at least, and ``ENOUGH`` while others are still waited for."""
        name, (bank, key) = max(self._rows(place).items(), key=lambda item: _statistic(*item[1]))
        best, since, now = bank.best(key), self.since(place, [name]), bank.mark[bank.rows[key]]
        banks = {device: self.members[device].series[name].bank for device in self.devices(place)
                 if device not in self.muted}  # fmt: skip
        rows = [(found, found.rows[device]) for device, found in banks.items() if found.width == bank.width]
        evidence = [found.cusum[row, best] for found, row in rows if found.mark[row] > since]
        awaited = any(
            found.mark[row] <= since and now - found.mark[row] < PATIENCE * found.span[row] for found, row in rows
        )
        odds = np.logaddexp(0.0, -np.array(evidence)) - math.log(2)
        return len(evidence) >= (ENOUGH if awaited else 2) and bool(odds.sum() <= 0)

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
        series = next(
            series for device in devices if (series := self.members[device].series[name]).bank.width == bank.width
        )
        best, counts = bank.best(key), bank.counts[bank.rows[key]]
        word, spike = series.tilts.words[best], int(series.tilts.bins[best])
        return culprit(series.channel, word, spike, log10_days(_statistic(bank, key)), counts)

    def _series(self, channel: Channel) -> Series:
        if channel not in self.series:
            tilts = Tilts.of(channel, self.tolerance)
            bank: Bank[str] = Bank(tilts.log_weights, len(channel.counts), tilts)
            self.series[channel] = Series(channel, tilts, bank)
        return self.series[channel]

    def _pools(self, devices: Sequence[str], sizes: Counter[Pool]) -> dict[Pool, Places]:
        """Which places of this list belong to each pool."""
        found: defaultdict[Pool, list[int]] = defaultdict(list)
        for place, device in enumerate(devices):
            for pool in self.members[device].pools if device not in self.muted else ():
                if pool in sizes:
                    found[pool].append(place)
        return {pool: np.array(places) for pool, places in found.items()}

    def _take_pools(self, key: tuple[str, int], parts: Sequence[Part], pools: Mapping[Pool, Places]) -> Bank[Pool]:
        """Of devices with different references the evidence counts together, not the values."""
        columns = ((part.gains, part.counts, part.starts, part.ends) for part in parts)
        part = Part(*(np.concatenate(column) for column in zip(*columns, strict=True))).pooled(list(pools.values()))
        if key not in self.pools:
            like = (s.tilts.log_weights for s in self.series.values() if s.bank.width == key[1])
            self.pools[key] = Bank(next(like), part.counts.shape[1])
        bank = self.pools[key]
        bank.take(np.array([bank.row(pool) for pool in pools]), part.gains, part.counts, part.starts, part.ends)
        return bank

    def _rows(self, place: Place) -> dict[str, tuple[Bank[Any], Any]]:
        """The place's banks and its key in them, by channel; of a pool's banks for a channel, the strongest."""
        if place.level == DEVICE:
            member = self.members.get(place.name)
            return {name: (series.bank, place.name) for name, series in member.series.items()} if member else {}
        pool = place.level, place.name
        banks = sorted((bank.statistic[bank.rows[pool]], name, width) for (name, width), bank in self.pools.items()
                       if pool in bank.rows)  # fmt: skip
        return {name: (self.pools[name, width], pool) for _, name, width in banks}


def pools_of(group: str) -> tuple[Pool, ...]:
    """What a device of this group belongs to."""
    return ((GROUP, group), (FLEET, "")) if group else ((FLEET, ""),)


def _statistic(bank: Bank[Any], key: Any) -> float:
    return float(bank.statistic[bank.rows[key]])
