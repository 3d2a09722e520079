"""What a device's files tell, whether or not its agent runs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skerry_edge.config import Folders, WorkloadFolder, load
from skerry_edge.observe.events import last
from skerry_edge.observe.losses import stored
from skerry_edge.update.slots import Pointer, Slots
from skerry_edge.update.state import StateFile
from skerry_shared.locking import is_locked
from skerry_shared.telemetry import CLASSES

EVENTS = 5  # that a status shows
LOST = {
    "bound": "for the spool was full",
    "disk": "for the disk refused them",
    "budget": "for chance drew more than the day's budget",
}


@dataclass(frozen=True)
class Installed:
    """A workload of the device."""

    workload: str
    active: Pointer | None  # what serves
    counter: int  # of the last assignment
    update: str | None  # its state, a value of states.Update
    reason: str


@dataclass(frozen=True)
class Status:
    """A device at a glance."""

    fleet: str
    device: str
    profile: str
    running: bool
    port: int | None  # of the inference service over gRPC, while the agent runs
    http_port: int | None  # of the same over REST
    models: list[Installed]
    spool_bytes: dict[str, int]  # by class of telemetry
    lost: list[dict[str, Any]]  # batches that could not be kept, since the device was enrolled: class, reason, batches
    events: list[dict[str, Any]]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read(folders: Folders) -> Status:
    """The status of an enrolled folder. Raises ConfigError or StateError."""
    config, running = load(folders), is_locked(folders.lock)
    return Status(
        fleet=config.fleet,
        device=config.device,
        profile=config.profile,
        running=running,
        port=_port(folders.port) if running else None,
        http_port=_port(folders.http_port) if running else None,
        models=[_installed(folder) for folder in folders.workloads()],
        spool_bytes={name: _bytes(folders.spool / name) for name in CLASSES},
        lost=[
            {"class": loss.kind, "reason": loss.reason, "batches": count}
            for loss, count in sorted(stored(folders.losses).items())
        ],
        events=last(folders.events)[-EVENTS:],
    )


def as_text(status: Status) -> str:
    """A few lines for people."""
    serving = f"runs, inference on ports {status.port} (gRPC) and {status.http_port} (REST)"
    lines = [
        f"device   {status.device} in fleet {status.fleet}, profile {status.profile}",
        f"agent    {serving if status.running else 'does not run'}",
        *([f"model    {_model(model)}" for model in status.models] or ["model    none yet"]),
        f"spool    {sum(status.spool_bytes.values())} bytes: {_by_class(status.spool_bytes)}",
    ]
    lines += [f"lost     {one['batches']} batches of {one['class']}, {LOST[one['reason']]}" for one in status.lost]
    return "\n".join(lines + [f"event    {_line(event)}" for event in status.events])


def _installed(folder: WorkloadFolder) -> Installed:
    stored, active = StateFile(folder.update).load(), Slots(folder.root).active()
    return Installed(folder.name, active, stored.counter, stored.state.value if stored.state else None, stored.reason)


def _model(model: Installed) -> str:
    serving = f"release {model.active.release}, slot {model.active.slot}" if model.active else "none serves"
    update = model.update or "no assignment yet"
    return f"{model.workload} {serving}; {update}{f': {model.reason}' if model.reason else ''}"


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*"))


def _by_class(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def _port(path: Path) -> int | None:
    return int(path.read_text()) if path.exists() else None


def _line(event: dict[str, Any]) -> str:
    about = f" {event['workload']}" if event["workload"] else ""
    about += f" release {event['release']}" if event["release"] else ""
    return f"{event['subject']}{about}: {event['from'] or '-'} → {event['to']}: {event['reason']}"
