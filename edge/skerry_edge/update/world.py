"""What an update is given, and what it tells: plain data that all of its steps share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from skerry_edge.update.memory import Memory
from skerry_edge.update.plan import Device, Floor
from skerry_edge.update.prove import Bounds
from skerry_edge.update.shadow import Settings as ShadowSettings
from skerry_shared.bundle import Bundle
from skerry_shared.ports.runtime import Model
from skerry_shared.states import Update


class Repository(Protocol):
    """Where verified bundles come from."""

    def fetch(self, path: str, sha256: str, length: int) -> bytes:
        """The bundle. Raises LinkError, ExpiredError or another TrustError."""
        ...


class Settings(Bounds, Protocol):
    """When a new model counts as healthy; see ``config.Health``."""

    @property
    def proving_s(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Transition:
    """One change of state, to be reported."""

    time: float  # Unix seconds
    before: str  # a value of states.Update; empty at the beginning
    after: str
    reason: str
    workload: str = ""
    release: int = 0
    rollout: int = 0


@dataclass(frozen=True)
class Live:
    """A loaded bundle."""

    bundle: Bundle
    model: Model
    memory_mb: float = 0.0  # that the model takes

    @property
    def release(self) -> int:
        """Its release."""
        return self.bundle.manifest.release

    @property
    def labels(self) -> tuple[str, ...]:
        """Class labels in the order of its scores."""
        return self.bundle.manifest.labels


@dataclass(frozen=True)
class World:
    """All that the updates of one workload act upon."""

    workload: str
    device: Device
    repository: Repository
    memory: Memory  # that all workloads share
    floor: Floor  # that all workloads share
    load: Callable[[Bundle], Live]  # by the runtime that the manifest names; raises ModelError
    serve: Callable[[Live | None], None]  # from now on this one answers; None: nothing does
    report: Callable[[Transition], None]
    clock: Callable[[], float]  # Unix seconds
    timer: Callable[[], float]  # seconds; unlike the clock never set
    health: Settings
    shadow: ShadowSettings
    compared: Callable[[dict[str, Any]], None]  # a row of telemetry table "shadow", to be kept durably


@dataclass(frozen=True)
class Wait:
    """Nothing to do for so many seconds, unless there is news."""

    seconds: float


class Door:
    """Reports what was turned away."""

    def __init__(self, report: Callable[[Transition], None], clock: Callable[[], float]) -> None:
        self._report, self._clock, self._last = report, clock, ""

    def turn_away(self, reason: str) -> None:
        """An assignment that does not count. A sender may repeat itself; one report is enough."""
        if reason != self._last:
            self._last = reason
            self._report(Transition(self._clock(), "", Update.REFUSED.value, reason))
