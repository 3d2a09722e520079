"""Compression on Fashion-MNIST: size and latency at equal accuracy, INT8's loss, the selector, beside other tools.

    scripts/bench compress [--seeds 0 1 2] [--folder FOLDER] [--quick] [--no-peers]

For each seed a residual and a depthwise network are trained, compressed by ``recipes``, and judged on the 10,000 test
pictures, which no step has seen. The float reference is the champion trained on for as long as the student was, so that
it had just as long; its accuracy is the better of both. All is kept in FOLDER: what was killed goes on from there.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shrinking import nets, peers
from silent.check import count
from skerry_cloud import datasets, passes, runs
from skerry_cloud.adapters import models
from skerry_cloud.compress import gates, study
from skerry_cloud.compress.explore import FINALISTS
from skerry_cloud.compress.job import work as compress
from skerry_cloud.compress.make import place
from skerry_cloud.compress.measure import Exam, exam
from skerry_cloud.compress.search import front
from skerry_cloud.compress.study import Figures, Goal, Study
from skerry_cloud.compress.timing import in_turns
from skerry_cloud.datasets import REFERENCE, TRAIN
from skerry_cloud.job import Progress
from skerry_cloud.specs import CompressSpec, TrainSpec, Wanted
from skerry_cloud.train.job import work as train
from skerry_cloud.workloads import Examples
from skerry_cloud.workloads.fashion import Fashion
from skerry_shared.errors import GateError

NETS = Path(nets.__file__)
PROFILE = "generic-x86-64"
WITHIN, TINY = 0.3, 2.0  # points below the float reference, below the teacher
MAX_DROP = 1.0  # points that the gates allow
ROUNDS = 60
CALIBRATION = 512  # inputs, for the other tools as for ours
CHAMPION = "float champion"
AIMS = {"size_ratio_03": 1 / 14, "latency_ratio_03": 1 / 4, "tiny_kb": 24, "int8_drop_worst": 0.1,
        "selector_regret": 0.03, "worse_than_best_peer": 0}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """For how many epochs a champion learns, and how its students are made, each with the INT8 pass that suits it.

    ``longer``: for how many more epochs the champion trains, as float reference. They take at least as many seconds of
    a core as the slowest student; a fixed number, because a busy machine makes seconds differ.
    """

    champion: int
    longer: int
    students: dict[str, str]

    @property
    def twins(self) -> dict[str, str]:
        """Every INT8 recipe with the float one that it is made of; the champion's own first."""
        made = {
            f"{student} + onnx + {int8} + slim": f"{student} + onnx + slim" for student, int8 in self.students.items()
        }
        return {f"{INT8} + slim": "slim"} | made

    @property
    def recipes(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(recipe for pair in self.twins.items() for recipe in reversed(pair))

    def quick(self) -> "Plan":
        """The same with an epoch of each."""
        short = {passes.spell(passes.cut(passes.parse(text), 0.01)): int8 for text, int8 in self.students.items()}
        return Plan(1, 1, short)


INT8, SPARING, CAREFUL = "int8(arch='x86_64')", "int8(arch='x86_64', spare=2)", "int8(arch='x86_64', spare=6)"
PLANS = {  # the narrower a network, the more rounding hurts
    "Residual": Plan(10, 5, {"prune(keep=0.5) + tune(epochs=10)": INT8, "distil(width=0.13, epochs=24)": SPARING}),
    "Depthwise": Plan(4, 4, {"distil(width=0.5, epochs=4)": CAREFUL}),
}


@dataclass(frozen=True)
class Measured:
    """One model on the test pictures: per cent of right answers, bytes, milliseconds and their ratio to float's."""

    accuracy: float
    model_bytes: float
    latency_ms: float
    latency_ratio: float


@dataclass(frozen=True)
class Seed:
    """One network trained with one seed: the better float reference, what each recipe made, what was chosen."""

    reference: float
    champion: Measured
    found: dict[str, Measured]
    chosen: str
    passed: tuple[str, ...]
    twins: dict[str, str]
    peers: dict[str, Measured]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="skerry-") as scratch:
        folder = options.folder or Path(scratch)
        seeds = {net: [_seed(folder, net, seed, options) for seed in options.seeds] for net in PLANS}
        caught, total = count(Path(scratch, "faults"))
    figures = _figures(seeds) | {"faults_caught": caught, "faults_total": total}
    for net, found in seeds.items():
        _table(net, found)
    _verdict(figures)
    print(json.dumps(figures))


def _seed(folder: Path, net: str, seed: int, options: argparse.Namespace) -> Seed:
    """Train, compress and train on, each unless it was done before; then measure."""
    plan = PLANS[net].quick() if options.quick else PLANS[net]
    net = f"Quick{net}" if options.quick else net
    workload: Fashion = getattr(nets, net)()
    data, run = folder / net / "data", folder / net / str(seed)
    if not datasets.versions(data):
        examples = workload.examples()
        datasets.create(data, workload, examples, [REFERENCE] * len(examples), created=time.time())
    spec = TrainSpec(f"{NETS}:{net}", folder, data, 1, run, epochs=plan.champion, seed=seed)
    wanted = Wanted((PROFILE,), MAX_DROP, recipes=plan.recipes)
    request = CompressSpec(spec.workload, folder, data, 1, run, wanted, seed=seed)
    if not (run / runs.METRICS).is_file():
        train(spec, _say)
    if not (run / study.FOLDER / study.STUDY).is_file():
        with suppress(GateError):  # the figures are as interesting where nothing passes
            compress(request, _say)
    longer = replace(spec, run=run / "longer", parent=run, epochs=plan.longer)
    if not (longer.run / runs.METRICS).is_file():
        train(longer, _say)
    return _measured(workload, spec, plan, with_peers=options.peers and net == "Residual")


def _measured(workload: Fashion, spec: TrainSpec, plan: Plan, with_peers: bool) -> Seed:
    """Every model on the test pictures; all timed in turns, and ours asked at the gates as the finalists were."""
    rows = datasets.open_version(spec.datasets, 1).read()
    tested, field, found = exam(workload, rows, spec.run / runs.MODEL), workload.field(), _study(spec.run)
    folders = {text: place(spec.run / study.FOLDER, spec.seed, passes.parse(text)) for text in plan.recipes}
    paths = {text: folder / runs.MODEL for text, folder in folders.items()}
    train_inputs = rows.of(TRAIN).examples.inputs[:CALIBRATION]
    rivals = peers.run(tested.champion, spec.run / "peers", train_inputs) if with_peers else {}
    every = {CHAMPION: tested.champion} | paths | rivals
    times = in_turns([models.load(path) for path in every.values()], field.inputs[:50], ROUNDS)
    measured = {
        name: Measured(_accuracy(path, field), path.stat().st_size, ms, ms / times[0])
        for (name, path), ms in zip(every.items(), times, strict=True)
    }
    figures = {trial.recipe: trial.figures for trial in found.searches[0].trials}
    passed = [text for text, path in paths.items() if _passes(tested, path, figures[text], found.goal)]
    longer = _accuracy(spec.run / "longer" / runs.MODEL, field)
    return Seed(
        reference=max(longer, measured[CHAMPION].accuracy),
        champion=measured[CHAMPION],
        found={text: measured[text] for text in paths},
        chosen=found.searches[0].chosen,
        passed=tuple(passed),
        twins=plan.twins,
        peers={name: measured[name] for name in rivals},
    )


def _passes(tested: Exam, path: Path, figures: Figures | None, goal: Goal) -> bool:
    assert figures
    verdicts = gates.judge(tested.evidence(path), figures, goal, gates.ALPHA / FINALISTS)
    return all(verdict.passed for verdict in verdicts)


def _accuracy(path: Path, field: Examples) -> float:
    return float((models.load(path).run(field.inputs).scores.argmax(axis=1) == field.labels).mean()) * 100


def _study(run: Path) -> Study:
    return runs.read(Study, run / study.FOLDER / study.STUDY)


def _say(progress: Progress) -> None:
    if progress.done == progress.total or progress.stage not in ("train", "learn"):
        print(f"  {progress.stage}: {progress.note}", file=sys.stderr, flush=True)


def _mean(seeds: Sequence[Seed], name: str) -> Measured:
    """Of one recipe, or peer, over the seeds."""
    return _average([(seed.found | seed.peers)[name] for seed in seeds])


def _average(several: Sequence[Measured]) -> Measured:
    accuracy, size, latency, ratio = np.mean([dataclasses.astuple(one) for one in several], axis=0).tolist()
    return Measured(accuracy, size, latency, ratio)


def _figures(seeds: Mapping[str, Sequence[Seed]]) -> dict[str, Any]:
    residual = seeds["Residual"]
    reference = float(np.mean([seed.reference for seed in residual]))
    teacher = _average([seed.champion for seed in residual])
    found = {recipe: _mean(residual, recipe) for recipe in residual[0].found}
    close = [measured for measured in found.values() if measured.accuracy >= reference - WITHIN]
    tiny = [measured for measured in found.values() if measured.accuracy >= teacher.accuracy - TINY]
    return {
        "size_ratio_03": min(measured.model_bytes for measured in close) / teacher.model_bytes if close else None,
        "latency_ratio_03": min(measured.latency_ratio for measured in close) if close else None,
        "both_03": [r for r, m in found.items() if m in close and _both(m, teacher.model_bytes)],
        "tiny_kb": min(measured.model_bytes for measured in tiny) / 1024 if tiny else None,
        "int8_drop_worst": max(_int8_drop(found) for found in seeds.values()),
        "selector_regret": max(_regret(seed) for found in seeds.values() for seed in found),
        "worse_than_best_peer": sum(not _matched(_mean(residual, peer), found) for peer in residual[0].peers),
        "reference": reference,
        "front": [[recipe, round(m.accuracy, 2), round(m.model_bytes / 1024, 1), round(m.latency_ratio, 3)]
                  for recipe, m in found.items() if recipe in _front(found)],
    }  # fmt: skip


def _matched(peer: Measured, ours: Mapping[str, Measured]) -> bool:
    """Is one of ours as right, as small and as quick, but for what chance and clocks do?"""
    return any(
        m.accuracy >= peer.accuracy - 0.1
        and m.model_bytes <= peer.model_bytes
        and m.latency_ms <= peer.latency_ms * 1.03
        for m in ours.values()
    )


def _both(measured: Measured, size: float) -> bool:
    """Is it small and quick enough at once?"""
    return measured.model_bytes <= size * AIMS["size_ratio_03"] and measured.latency_ratio <= AIMS["latency_ratio_03"]


def _int8_drop(seeds: Sequence[Seed]) -> float:
    """The worst mean loss of an INT8 variant against its own float, in points."""
    twins = seeds[0].twins.items()
    return max(_mean(seeds, exact).accuracy - _mean(seeds, rounded).accuracy for rounded, exact in twins)


def _regret(seed: Seed) -> float:
    """By how much the chosen variant is slower than the fastest of all that pass."""
    if not seed.chosen:
        return math.inf if seed.passed else 0.0
    return seed.found[seed.chosen].latency_ms / min(seed.found[recipe].latency_ms for recipe in seed.passed) - 1


def _front(found: Mapping[str, Measured]) -> list[str]:
    return front({recipe: (-m.accuracy, m.latency_ratio, m.model_bytes) for recipe, m in found.items()})


def _table(net: str, seeds: Sequence[Seed]) -> None:
    print(f"\n{net}, mean of {len(seeds)} seeds{'':<32} {'accuracy':>9} {'KB':>8} {'µs':>7} {'of float':>9}")
    champion = _average([seed.champion for seed in seeds])
    rows = {CHAMPION: champion} | {name: _mean(seeds, name) for name in (*seeds[0].found, *seeds[0].peers)}
    for name, m in rows.items():
        figures = f"{m.accuracy:>9.2f} {m.model_bytes / 1024:>8.1f} {m.latency_ms * 1e3:>7.1f} {m.latency_ratio:>9.3f}"
        print(f"{name:<58} {figures}")
    reference = np.mean([seed.reference for seed in seeds])
    print(f"{'float trained as long as the slowest student':<58} {reference:>9.2f}")
    print("chosen: " + "; ".join(seed.chosen or "none passed" for seed in seeds))


def _verdict(figures: Mapping[str, Any]) -> None:
    print()
    for key, aim in AIMS.items():
        value = figures[key]
        shown = "unknown" if value is None else f"{value:.3f}"
        print(f"{key:<24} {shown:>9}   aim at most {aim:.3f}{'' if value is None or value <= aim else '   MISSED'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="which ones")
    parser.add_argument("--folder", type=Path, help="keep what is made there")
    parser.add_argument("--quick", action="store_true", help="an epoch of little: does it run?")
    parser.add_argument("--no-peers", action="store_false", dest="peers", help="without the other tools")
    return parser.parse_args()


if __name__ == "__main__":
    main()
