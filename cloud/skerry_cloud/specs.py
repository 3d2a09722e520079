"""What each job is told. Here and not beside the jobs, so that the server need not load what they need."""

from dataclasses import dataclass
from pathlib import Path

from skerry_shared.release import Kind


@dataclass(frozen=True)
class IngestSpec:
    """What to ingest; ``name`` is what the cloud calls the workload.

    ``samples`` is an .npz with inputs, labels (int64) and sources (str) of one length; it needs a ``parent``.
    """

    name: str
    workload: str
    folder: Path
    datasets: Path
    created: float
    samples: Path | None = None
    parent: int = 0


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
    of the usual ones, each with its whole effort where there is no limit of minutes.
    """

    profiles: tuple[str, ...]
    max_drop: float | None = None
    max_bytes: int | None = None
    max_latency_ms: float | None = None
    minutes: float = 0.0
    recipes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_latency_ms"):
            limit = getattr(self, name)
            if limit is not None and limit <= 0:
                raise ValueError(f"{name}: must be above 0, got {limit}")
        if self.minutes < 0:
            raise ValueError(f"minutes: must not be below 0, got {self.minutes}")


@dataclass(frozen=True)
class CompressSpec:
    """What to compress. ``run`` is the folder that training filled; the rest is as for training."""

    workload: str
    folder: Path
    datasets: Path
    dataset: int
    run: Path
    wanted: Wanted
    seed: int = 0
    threads: int = 1


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
