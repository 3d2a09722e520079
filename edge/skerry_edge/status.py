"""What a device's files tell, whether or not its agent runs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skerry_edge.config import Folders, load
from skerry_edge.observe.events import last
from skerry_edge.update.slots import Pointer, Slots
from skerry_edge.update.state import StateFile
from skerry_shared.locking import is_locked

EVENTS = 5  # that a status shows


@dataclass(frozen=True)
class Status:
    """A device at a glance."""

    fleet: str
    device: str
    profile: str
    running: bool
    port: int | None  # of the inference service over gRPC, while the agent runs
    http_port: int | None  # of the same over REST
    active: Pointer | None
    counter: int  # of the last assignment
    update: str | None  # its state, a value of states.Update
    reason: str
    spool_bytes: int
    events: list[dict[str, Any]]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read(folders: Folders) -> Status:
    """The status of an enrolled folder. Raises ConfigError or StateError."""
    config, stored = load(folders), StateFile(folders.update).load()
    running = is_locked(folders.lock)
    return Status(
        fleet=config.fleet,
        device=config.device,
        profile=config.profile,
        running=running,
        port=_port(folders.port) if running else None,
        http_port=_port(folders.http_port) if running else None,
        active=Slots(folders.slots, folders.active).active(),
        counter=stored.counter,
        update=stored.state.value if stored.state else None,
        reason=stored.reason,
        spool_bytes=sum(file.stat().st_size for file in folders.spool.glob("*")),
        events=last(folders.events)[-EVENTS:],
    )


def as_text(status: Status) -> str:
    """A few lines for people."""
    active, update = status.active, status.update or "none yet"
    serving = f"runs, inference on ports {status.port} (gRPC) and {status.http_port} (REST)"
    lines = [
        f"device   {status.device} in fleet {status.fleet}, profile {status.profile}",
        f"agent    {serving if status.running else 'does not run'}",
        f"model    {f'{active.workload} release {active.release}, slot {active.slot}' if active else 'none yet'}",
        f"update   {update}{f': {status.reason}' if status.reason else ''}",
        f"spool    {status.spool_bytes} bytes",
    ]
    return "\n".join(lines + [f"event    {_line(event)}" for event in status.events])


def _port(path: Path) -> int | None:
    return int(path.read_text()) if path.exists() else None


def _line(event: dict[str, Any]) -> str:
    release = f" release {event['release']}" if event["release"] else ""
    return f"{event['subject']}{release}: {event['from'] or '-'} → {event['to']}: {event['reason']}"
