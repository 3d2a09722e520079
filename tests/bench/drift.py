"""Drift on real data: false alarms against the stated rate, delay beside other detectors at an equal rate, cost.

    scripts/bench drift [--quick] [--case NAME] [--no-peers]

Each case is a change of a real data set in mid-stream. Every detector's threshold is set on quiet streams, so that the
same share of them (5 %) raises a false alarm; then it is timed on changed ones, in values until the alarm. The rate
that Skerry itself promises is checked beside that, with the threshold that it comes with. Peers run in environments of
their own, which the first run installs below build/bench-drift.
"""

import argparse
import gc
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from drifting import data, peers
from drifting.data import CASES, ONSET, WINDOW, WINDOWS, Case, Streams, Values
from skerry_cloud.drift.finding import DAY, DEVICE, FLEET, Place
from skerry_cloud.drift.traffic import Known, Window
from skerry_cloud.drift.watch import Key, Watch
from skerry_shared import sketch
from skerry_shared.release import Channel

QUIET, CHANGED = 100, 30  # streams
COMPARED = 60  # of the quiet ones set thresholds: peers take their time
SHARE = 0.05  # of the quiet streams that may alarm, to set thresholds alike
EXPECTED = 0.2  # false alarms of a quiet stream that the stated rate allows, to check it
SECONDS = 60.0  # a window
TOLERANCE = 0.01  # the default
NEVER = 1e12  # days


@dataclass(frozen=True)
class Delay:
    """Of one detector in one case: mean values until the alarm, and the share of streams without one."""

    values: float
    missed: float


def main() -> None:
    options = _options()
    quiet, changed = (20, 10) if options.quick else (QUIET, CHANGED)
    names = [] if options.no_peers else peers.install()
    available = data.sources(peers.FOLDER)
    for name in data.skipped(available):
        print(f"case {name} is left out: its data are not here")
    table, excesses = {}, {}
    for case in CASES:
        if case.source in available and options.case in ("", case.name):
            streams = data.draw(available[case.source](), case, 7, quiet, changed)
            table[case.name] = delays(case, replace(streams, quiet=streams.quiet[:COMPARED]), names)
            excesses[case.name] = false_alarms(case, streams) - EXPECTED
            _print(case.name, table[case.name], excesses[case.name])
    print(json.dumps(_summary(table, excesses)))


def delays(case: Case, streams: Streams, names: Sequence[str]) -> dict[str, Delay]:
    """Of Skerry and of every detector of every peer."""
    quiet, changed = (ours(case, streams, which) for which in (streams.quiet, streams.changed))
    found = {"skerry": _delay(quiet, changed)}
    seen = Streams(*(data.visible(case, part) for part in (streams.references, streams.quiet, streams.changed)))
    for name in names:
        told = peers.scores(name, seen).items()
        found |= {detector: _delay(both[: len(quiet)], both[len(quiet) :]) for detector, both in told}
    return found


def ours(case: Case, streams: Streams, which: Values) -> Values:
    """log10 of the statistic that alarms, streams × windows."""
    found = np.empty((len(which), WINDOWS))
    for place, stream in enumerate(which):
        known, windows = _told(case, streams.references[place % len(streams.references)], stream)
        watch = Watch(NEVER, TOLERANCE)
        for at, beat in enumerate(windows):
            if watch.fold(beat, known):
                found[place, at:] = np.inf
                break
            found[place, at] = _evidence(watch, [device for device, _, _ in known])
    return found


def false_alarms(case: Case, streams: Streams) -> float:
    """Alarms a quiet stream, with the threshold that is stated to allow ``EXPECTED``."""
    days, alarms = WINDOWS * SECONDS / DAY / EXPECTED, 0
    for place, stream in enumerate(streams.quiet):
        known, windows = _told(case, streams.references[place % len(streams.references)], stream)
        watch = Watch(days, TOLERANCE)
        alarms += sum(len(watch.fold(beat, known)) for beat in windows)
    return alarms / len(streams.quiet)


def _told(case: Case, reference: Values, stream: Values) -> tuple[dict[Key, Known], list[list[Window]]]:
    """What the cloud knows, and what devices tell it: window by window."""
    reference, stream = data.visible(case, reference), data.visible(case, stream)
    labels = 10 if case.source == "classes" else 2
    names = sketch.ANSWERS if case.source == "classes" else [f"value {i}" for i in range(stream.shape[1])]
    if not case.devices:
        channels = sketch.baseline(names, reference, labels)
        parts = {"d0": (channels, stream)}
    else:
        parts = {
            f"d{i}": (sketch.baseline(names[:1], reference[:, i : i + 1], labels), stream[:, i : i + 1])
            for i in range(case.devices)
        }
    known = {(device, "w", 1): Known(channels) for device, (channels, _) in parts.items()}
    return known, [
        [window for device, part in parts.items() for window in _windows(device, *part, at)] for at in range(WINDOWS)
    ]


def _windows(device: str, channels: Sequence[Channel], stream: Values, at: int) -> list[Window]:
    begin = at * WINDOW
    return [
        Window(device, "w", 1, at * SECONDS, (at + 1) * SECONDS, channel.name,
               sketch.count(channel, stream[begin : begin + WINDOW, i], stream[begin - 1, i] if at else np.nan))
        for i, channel in enumerate(channels)
    ]  # fmt: skip


def _evidence(watch: Watch, devices: Sequence[str]) -> float:
    places = [Place(DEVICE, device, "w", 1) for device in devices]
    told = [np.array([watch.evidence(place) for place in places]) * np.log(10) - np.log(len(devices))]
    if len(devices) > 1:
        told.append(np.array([watch.evidence(Place(FLEET, "", "w", 1))]) * np.log(10))
    return float(np.logaddexp.reduce(np.concatenate(told)) - np.log(len(told)))


def _delay(quiet: Values, changed: Values) -> Delay:
    """The threshold is what the maximum of ``SHARE`` of the quiet streams exceeds; alarms before the change do not
    count, what never alarms counts as the rest of the stream."""
    limit = np.quantile(quiet.max(axis=1), 1 - SHARE, method="higher")
    over = changed[:, ONSET:] > limit
    first = np.where(over.any(axis=1), over.argmax(axis=1) + 1, over.shape[1])
    return Delay(float(first.mean() * WINDOW), float(1 - over.any(axis=1).mean()))


def ns_per_value(channels: int = 20, batch: int = 1024) -> float:
    """On the device: counting values of a batch into bins, the best of some rounds."""
    values = np.random.default_rng(0).normal(size=(4000, channels))
    baseline = sketch.baseline([f"f{i}" for i in range(channels)], values, 2)
    part = values[:batch].astype(np.float32).astype(np.float64)

    def work() -> None:
        for i, channel in enumerate(baseline):
            sketch.count(channel, part[:, i], 0.0)

    return _best(work) / (batch * channels) * 1e9


def cloud_us(devices: int = 200, channels: int = 20) -> float:
    """In the cloud: one window of every stream (a channel of a device), from rows to the decision."""
    random = np.random.default_rng(0)
    values = random.normal(size=(4000, channels))
    baseline = sketch.baseline([f"f{i}" for i in range(channels)], values, 2)
    known = {(f"d{i}", "w", 1): Known(baseline, f"g{i % 10}") for i in range(devices)}
    counts = random.multinomial(100, np.array(baseline[0].counts) / len(values), size=(devices, channels))
    watch, at = Watch(NEVER, TOLERANCE), iter(range(10**6))

    def work() -> None:
        start = SECONDS * next(at)
        watch.fold(
            [Window(f"d{d}", "w", 1, start, start + SECONDS, f"f{c}", counts[d, c])
             for d in range(devices) for c in range(channels)], known,
        )  # fmt: skip

    return _best(work) / (devices * channels) * 1e6


def _best(work: object) -> float:
    assert callable(work)
    gc.collect()
    gc.freeze()  # what the cases left behind is not walked through again and again
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def _print(case: str, found: dict[str, Delay], excess: float) -> None:
    print(f"\n{case}: false alarms a stream, measured minus stated {excess:+.3f}")
    for name, delay in sorted(found.items(), key=lambda item: item[1].values):
        missed = f", {delay.missed:.0%} missed" if delay.missed else ""
        print(f"  {name:<36} {delay.values:>7.0f} values{missed}", flush=True)


def _summary(table: dict[str, dict[str, Delay]], excesses: dict[str, float]) -> dict[str, object]:
    ratios = {
        case: found["skerry"].values / min(delay.values for name, delay in found.items() if name != "skerry")
        for case, found in table.items() if len(found) > 1
    }  # fmt: skip
    cases = {
        case: {name: round(delay.values) for name, delay in found.items()} | {"ratio": round(ratios.get(case, 0), 3)}
        for case, found in table.items()
    }
    logs = np.log(list(ratios.values()))
    return {
        "false_alarm_excess": round(max(excesses.values(), default=0.0), 4),
        "delay_ratio_geomean": round(float(np.exp(logs.mean())), 3) if ratios else None,
        "delay_ratio_worst": round(max(ratios.values()), 3) if ratios else None,
        "ns_per_value": round(ns_per_value(), 1), "cloud_us_per_stream_window": round(cloud_us(), 2), "cases": cases,
    }  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench drift", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 quiet and 10 changed streams instead of 100 and 30")
    parser.add_argument("--case", default="", choices=["", *(case.name for case in CASES)], help="only this one")
    parser.add_argument("--no-peers", action="store_true", help="Skerry alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
