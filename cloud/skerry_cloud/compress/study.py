"""The record of a study: what was tried for each kind of device, measured, said by the gates, and chosen.

Plain data, written as ``study.json`` into the run's folder ``study``; the report is drawn from it alone.
"""

from dataclasses import dataclass

from skerry_cloud.passes import Blame
from skerry_shared.release import Kind

STUDY, PAGE, FOLDER = "study.json", "study.html", "study"


@dataclass(frozen=True)
class Made:
    """One step of a candidate's lineage: the pass as its recipe spells it, the file that it wrote, how long it took."""

    step: str
    form: str
    model_bytes: int
    sha256: str
    seconds: float


@dataclass(frozen=True)
class Figures:
    """What was measured of a model. ``accuracy``: share of right answers on validation rows (the gates use test rows);
    ``loss_bound``: upper bound, at 95 % confidence, of the points that it loses there against the float champion.

    ``latency_ms``: median for one input on one thread of the study's machine, ``latency_ratio`` to the float champion,
    timed in turns with it. A model for another architecture is timed by its twin for this one: ``timed`` is the recipe
    of the file that was run.
    """

    accuracy: float
    loss_bound: float
    model_bytes: int
    latency_ms: float
    latency_ratio: float
    timed: str


@dataclass(frozen=True)
class Verdict:
    """What one gate said: accuracy, slice, corruption, golden, size, latency or device. ``subject`` is the slice, the
    corruption or the device.

    For accuracy, slice and corruption: ``value`` is the drop against the float champion in points, ``bound`` its upper
    bound at 95 % confidence, which must be within ``limit``, on ``examples`` paired rows. For golden: the largest
    difference of a score; size: bytes; latency, device: milliseconds (``limit`` 0: any); there ``bound`` equals
    ``value``.
    """

    gate: str
    subject: str
    passed: bool
    value: float
    bound: float
    limit: float
    examples: int
    reason: str


@dataclass(frozen=True)
class OnDevice:
    """What a device made of a candidate on one of its providers. ``fault``: why it cannot be used there; without a
    ``provider``: nowhere. ``latency_ms``: median for one input; ``max_diff`` from the golden answers."""

    profile: str
    device: str
    device_class: str
    provider: str
    fault: str
    max_diff: float
    latency_ms: float
    load_ms: float
    memory_mb: float


@dataclass(frozen=True)
class Trial:
    """One recipe at one effort. ``rung`` 0 is the cheapest. ``figures`` are None where it could not be made: ``error``.

    ``verdicts`` are empty unless it came to the gates; ``blame`` is worst first, and empty unless it was asked for;
    ``devices`` are those that measured it.
    """

    recipe: str
    kind: Kind
    rung: int
    lineage: tuple[Made, ...]
    figures: Figures | None
    verdicts: tuple[Verdict, ...] = ()
    blame: tuple[Blame, ...] = ()
    error: str = ""
    devices: tuple[OnDevice, ...] = ()

    @property
    def passed(self) -> bool:
        """Did it come to the gates, and pass them all?"""
        return bool(self.verdicts) and all(verdict.passed for verdict in self.verdicts)


@dataclass(frozen=True)
class Search:
    """All of one kind of device. ``front`` and ``chosen`` name recipes; ``reason`` says why that one, in one line."""

    kind: Kind
    profiles: tuple[str, ...]
    trials: tuple[Trial, ...]
    front: tuple[str, ...]
    chosen: str
    reason: str


@dataclass(frozen=True)
class Answers:
    """What devices said of the finalists for one kind, by recipe. ``silent``: who did not say all, empty if all did."""

    kind: Kind
    found: dict[str, tuple[OnDevice, ...]]
    silent: str


@dataclass(frozen=True)
class Goal:
    """What was asked for: points that may be lost, of all rows and in a slice or to a corruption; bytes and
    milliseconds at most (None: any); minutes to search (0: no search)."""

    max_drop: float
    max_slice_drop: float
    max_bytes: int | None = None
    max_latency_ms: float | None = None
    minutes: float = 0.0


@dataclass(frozen=True)
class Machine:
    """Where latencies were measured."""

    cpu: str
    arch: str
    runtime: str  # "onnxruntime 1.31.1"


@dataclass(frozen=True)
class Study:
    """The whole. ``champion`` is the float model that all are compared with; ``created`` in Unix seconds."""

    workload: str
    dataset: int
    created: float
    machine: Machine
    goal: Goal
    champion: Figures
    searches: tuple[Search, ...]
