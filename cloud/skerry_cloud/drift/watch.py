"""Where does traffic drift? The tests of ``bank`` for every device, group and the fleet at once, at one stated rate.

A device has a statistic R: the mean over the channels of what it runs. So has a pool (a group, the fleet) of two
or more, from the evidence of its members together, which finds what is too small to be found on one. Each level has the
same share: R counts with a weight w of one over the levels and over how many places its level ever had at once.

Alarms are raised by e-BH (Wang, Ramdas: False discovery rate control with e-values, arXiv:2009.02824; for e-detectors:
Dandapanthula, Ramdas, arXiv:2501.04130): the k places of the largest w·R alarm if the k-th has k·w·R ≥ T. Then the
weighted mean of all R is T at least, so that while nothing changes an alarm comes after a time of T on average, at
least, in all of the fleet and of all that is watched. The strongest place is named; what overlaps it starts anew.

A place that alarmed is silent until it is reset, unless a device of it changes further, or becomes faulty.

A pool is named only if it drifts as a whole: if its members' evidence speaks for "all of them" against "each one or
not, at even odds" (a Bayes factor). If it does not, members have to stand for themselves.

>>> watch = Watch(days=30, tolerance=0.01)
>>> alarms = watch.fold(windows, {("dev-2", "digits", 3): Known(manifest.baseline)})  # doctest: +SKIP
>>> summary(alarms[0])  # doctest: +SKIP
'dev-2: digits release 3 drifts since 2026-11-22 10:15:00 UTC: brightness is lower (…)'
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from skerry_cloud.drift.finding import DAY, DEVICE, LEVELS, Alarm, Culprit, Place, log10_days
from skerry_cloud.drift.traffic import Known, Series, Traffic, Window

Key = tuple[str, str, int]  # device, workload, release
Model = tuple[str, int]  # workload, release

FURTHER = 0.5  # standard deviations more than was told, at least, that are news


@dataclass
class Silence:
    """A place that alarmed and was not reset."""

    devices: frozenset[str]
    moved: dict[str, float] = field(default_factory=dict)  # by channel, how far when that was told: see ``_distance``

    def news(self, culprits: Iterable[Culprit]) -> tuple[Culprit, ...]:
        """Those that moved on, twice as far at least; they are told with that."""
        found = tuple(one for one in culprits if self._is_news(one.channel, _distance(one)))
        self.moved |= {one.channel: _distance(one) for one in found}
        return found

    def _is_news(self, channel: str, distance: float) -> bool:
        told = self.moved.get(channel, 0.0)
        return told < distance and distance >= max(2 * told, told + FURTHER)


@dataclass
class State:
    """All that a watch knows; see ``checkpoint``."""

    traffic: dict[Model, Traffic] = field(default_factory=dict)
    silent: dict[Place, Silence] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LEVELS, 0))  # places of a level at once, so far


class Watch:
    """Folds windows into ``state``."""

    def __init__(self, days: float, tolerance: float, state: State | None = None) -> None:
        """``days`` between two false alarms, on average and at least, of all that is watched together; ``tolerance``:
        the share of a channel's traffic that may be other than in the reference."""
        self._log_limit, self._tolerance = math.log(days * DAY), tolerance
        self.state = state or State()
        self._runs = {
            (device, workload): release
            for (workload, release), traffic in self.state.traffic.items()
            for device in traffic.members
        }

    @property
    def alarmed(self) -> frozenset[Place]:
        """Places whose alarm was not reset."""
        return frozenset(self.state.silent)

    def fold(self, windows: Iterable[Window], known: Mapping[Key, Known]) -> list[Alarm]:
        """Take in windows of any devices, in any order, and return the alarms that they raise.

        ``known`` has every window's key; a device that it tells something new of is judged anew. Windows of a channel
        that is not known, or has other bins, change nothing.
        """
        alarms = []
        for beat in _beats(windows):
            alarms += self._take(beat, known)
        return alarms

    def evidence(self, place: Place) -> float:
        """log10 of the statistic in days; minus infinity if nothing was judged."""
        traffic = self.state.traffic.get(place.model)
        return log10_days(traffic.statistic(place)) if traffic else -math.inf

    def reset(self, place: Place) -> None:
        """Judge this place anew, from now on."""
        silence, traffic = self.state.silent.pop(place, None), self.state.traffic.get(place.model)
        if silence and traffic:
            traffic.reset(silence.devices & traffic.members.keys())

    def _meet(self, key: Key, known: Known) -> None:
        device, workload, release = key
        before = self._runs.get((device, workload))
        if not known.channels or (before == release and self.state.traffic[workload, release].knows(device, known)):
            return
        if before is not None:
            self._part(device, workload, before)
        self._runs[device, workload] = release
        self.state.traffic.setdefault((workload, release), Traffic(self._tolerance)).join(device, known)
        self._count()

    def _part(self, device: str, workload: str, release: int) -> None:
        del self._runs[device, workload]
        traffic = self.state.traffic[workload, release]
        traffic.leave(device)
        if not traffic.members:
            del self.state.traffic[workload, release]

    def _count(self) -> None:
        """Weights fall while the fleet grows and never rise: so the mean of all R stays below the time watched."""
        pools = Counter(level for traffic in self.state.traffic.values() for level, _ in traffic.sizes())
        for level, count in {**pools, DEVICE: len(self._runs)}.items():
            self.state.most[level] = max(self.state.most[level], count)

    def _take(self, beat: Sequence[Window], known: Mapping[Key, Known]) -> list[Alarm]:
        parts: dict[int, tuple[Series, list[Window]]] = {}
        models: defaultdict[Model, list[tuple[Series, list[Window]]]] = defaultdict(list)
        judged: dict[Key, dict[str, Series]] = {}
        for window in beat:
            key = window[:3]
            if key not in judged:
                judged[key] = self._judged(key, known[key])
            found = judged[key].get(window.channel)
            if found is None or len(window.counts) != found.bank.bins:
                continue
            if (part := parts.get(id(found))) is None:
                part = parts[id(found)] = found, []
                models[key[1:]].append(part)
            part[1].append(window)
        for model in models:
            self.state.traffic[model].muted = self._muted(model)
        highest = [self.state.traffic[model].take(part) for model, part in models.items()]
        if max(highest, default=-math.inf) < self._log_limit:
            return []  # e-BH alarms only where some R is T at least
        return self._judge(max(window.end for window in beat))

    def _judged(self, key: Key, known: Known) -> dict[str, Series]:
        """The series of a device by channel; none if nothing is known of it."""
        self._meet(key, known)
        traffic = self.state.traffic.get(key[1:])
        member = traffic.members.get(key[0]) if traffic else None
        return member.series if member else {}

    def _muted(self, model: Model) -> frozenset[str]:
        """Devices of places that are silent, whoever joined them since."""
        silent = {place[:2] for place in self.state.silent if place.model == model}
        members = self.state.traffic[model].members.items() if silent else ()
        return frozenset(name for name, member in members if not silent.isdisjoint(((DEVICE, name), *member.pools)))

    def _judge(self, now: float) -> list[Alarm]:
        further, listed, alarms = list(self._further(now)), self._listed(), list[Alarm]()
        while listed:
            alarm = self._alarm(listed[0], now)
            self.state.silent[alarm.place] = silence = Silence(frozenset(alarm.devices))
            silence.news(alarm.channels)
            listed = [place for place in listed if not self._overlap(place, alarm.place)]
            self.state.traffic[alarm.place.model].reset(alarm.devices)
            alarms.append(alarm)
        return further + alarms

    def _further(self, now: float) -> Iterator[Alarm]:
        """Of each silent place, the device whose evidence came together again the strongest, if it is news."""
        limit = self._log_limit + self._cost(DEVICE)
        for place, silence in self.state.silent.items():
            traffic = self.state.traffic.get(place.model, Traffic(self._tolerance))
            found = [Place(DEVICE, name, *place.model) for name in silence.devices & traffic.members.keys()]
            found = [here for here in found if traffic.statistic(here) >= limit]
            if found:
                here = max(found, key=traffic.statistic)
                news = silence.news(traffic.culprits(here, [here.name], limit))
                if news:
                    since = traffic.since(here, [one.channel for one in news])
                    yield Alarm(place, (here.name,), news, since, now, again=True)
                traffic.restart(here.name for here in found)

    def _listed(self) -> list[Place]:
        """The places that alarm by e-BH, the strongest first."""
        found = sorted(self._candidates(), reverse=True)
        ranks = [rank for rank, (log_r, _) in enumerate(found, start=1) if log_r + math.log(rank) >= self._log_limit]
        return [place for _, place in found[: max(ranks, default=0)]]

    def _candidates(self) -> Iterator[tuple[float, Place]]:
        """log w·R of every place that is judged."""
        for model, traffic in self.state.traffic.items():
            for level, name in [*((DEVICE, name) for name in traffic.members.keys() - traffic.muted), *traffic.sizes()]:
                place = Place(level, name, *model)
                log_r = traffic.statistic(place)
                if log_r > -math.inf and (level == DEVICE or traffic.drifts_as_a_whole(place)):
                    yield log_r - self._cost(level), place

    def _cost(self, level: str) -> float:
        """-log w."""
        levels = sum(most > 0 for most in self.state.most.values())
        return math.log(levels * self.state.most[level])

    def _overlap(self, one: Place, other: Place) -> bool:
        traffic = self.state.traffic[one.model]
        return one.model == other.model and not set(traffic.devices(one)).isdisjoint(traffic.devices(other))

    def _alarm(self, place: Place, now: float) -> Alarm:
        traffic = self.state.traffic[place.model]
        devices = [name for name in traffic.devices(place) if name not in traffic.muted]
        culprits = traffic.culprits(place, devices, self._log_limit + self._cost(place.level))
        since = traffic.since(place, [culprit.channel for culprit in culprits])
        return Alarm(place, tuple(devices), tuple(culprits), since, now)


def _distance(culprit: Culprit) -> float:
    """How far a channel moved, in standard deviations of its reference; what is faulty could not have moved farther."""
    return math.inf if culprit.fault else abs(culprit.shift)


def _beats(windows: Iterable[Window]) -> Iterator[list[Window]]:
    """Windows in lists with one a device and channel at most, each stream's in order of time."""
    seen: dict[tuple[str, str, int, str], int] = {}
    beats: defaultdict[int, list[Window]] = defaultdict(list)
    for window in sorted(windows, key=attrgetter("start", "device")):
        stream = (window.device, window.workload, window.release, window.channel)
        number = seen[stream] = seen.get(stream, -1) + 1
        beats[number].append(window)
    yield from beats.values()
