"""What each job is told. Here and not beside the jobs, so that the server need not load what they need."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skerry_shared.release import Kind

if TYPE_CHECKING:
    from skerry_cloud.compress.study import Answers


@dataclass(frozen=True)
class IngestSpec:
    """What to ingest; ``name`` is what the cloud calls the workload.

    ``samples`` is an .npz with inputs, labels (int64) and sources (str) of one length; it needs a ``parent``. Those
    labelled -1 are for the workload's teacher, where it is ``sure`` at least.
    """

    name: str
    workload: str
    folder: Path
    datasets: Path
    created: float
    samples: Path | None = None
    parent: int = 0
    sure: float = 1.0


@dataclass(frozen=True)
class TrainSpec:
    """What to train. None takes the workload's own value, or a part of it where training starts warm.

    ``folder`` is where a workload given as a path is looked for, ``datasets`` holds the versions, ``run`` is filled,
    ``parent`` is the run folder to start warm from.
    """

    workload: str
    folder: Path
    datasets: Path
    dataset: int
    run: Path
    parent: Path | None = None
    epochs: int | None = None
    train_size: int | None = None
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class AdoptSpec:
    """What to import: ``file`` (.onnx or .tflite) as a model of a workload. The rest is as for training.

    ``scores`` names the output that holds them, where there are several.
    """

    workload: str
    folder: Path
    datasets: Path
    dataset: int
    run: Path
    file: Path
    scores: str = ""


@dataclass(frozen=True)
class Wanted:
    """What compression is asked for, for each of these device profiles.

    ``max_drop`` in points of accuracy, None for the workload's own; ``max_bytes`` and ``max_latency_ms`` of a model,
    None for any; ``minutes`` to search, 0 for the plain recipe alone. ``recipes`` (see ``passes``) are tried in place
    of the usual ones, each with its whole effort where there is no limit of minutes. ``device_minutes`` that idle
    devices of these profiles get to measure the finalists; 0: none is asked.
    """

    profiles: tuple[str, ...]
    max_drop: float | None = None
    max_bytes: int | None = None
    max_latency_ms: float | None = None
    minutes: float = 0.0
    recipes: tuple[str, ...] = ()
    device_minutes: float = 5.0

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_latency_ms"):
            limit = getattr(self, name)
            if limit is not None and limit <= 0:
                raise ValueError(f"{name}: must be above 0, got {limit}")
        for name in ("minutes", "device_minutes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must not be below 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class CompressSpec:
    """What to compress. ``run`` is the folder that training filled; the rest is as for training.

    ``asked``: profiles with a device that is going to measure the finalists. Their kinds are not decided here. ``ray``:
    address of a Ray cluster that makes the candidates; empty: they are made here.
    """

    workload: str
    folder: Path
    datasets: Path
    dataset: int
    run: Path
    wanted: Wanted
    asked: tuple[str, ...] = ()
    ray: str = ""
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True)
class SettleSpec:
    """The folder of a run, and what devices said of its finalists, kind by kind."""

    run: Path
    answers: "tuple[Answers, ...]"


@dataclass(frozen=True)
class CompareSpec:
    """What to compare: two run folders, by their variants for one kind of device, on the test split of a version.

    ``max_loss`` in points of accuracy on reference data, None for the workload's own.
    """

    workload: str
    folder: Path
    datasets: Path
    dataset: int
    champion: Path
    candidate: Path
    kind: Kind
    max_loss: float | None = None
