"""What a rollout does next: pure, over plain data and a given time.

A wave is assigned, and is through when every device of it says *healthy*; installed is not enough. (A shadow is through
where the device says *shadowed*: it has reported enough comparisons.) One device that
refuses or undoes the release, or a wave that is not through in time, halts the rollout: silence counts as failure.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skerry_shared.errors import UsageError
from skerry_shared.states import RolloutEvent, Update

FAILED = (Update.REFUSED, Update.UNDONE)
THROUGH = (Update.HEALTHY, Update.SHADOWED)


@dataclass(frozen=True)
class Progress:
    """A rollout under way. ``states`` has the update state of every device that was assigned so far, and why."""

    waves: Sequence[Sequence[str]]
    wave: int
    wave_started: float  # Unix seconds
    wave_seconds: float
    states: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Decision:
    """The rollout's next event, and why. ``None`` for nothing to do yet."""

    event: RolloutEvent | None
    reason: str


def plan_waves(devices: Sequence[str], canary: int, salt: str) -> list[list[str]]:
    """The canary wave and the rest. Who is canary follows from a stable hash, so no device is always the first.

    Raises UsageError without devices, or with no canary at all.
    """
    if not devices:
        raise UsageError("rollout: no enrolled device can run this release")
    if canary < 1:
        raise UsageError(f"canary: expected at least 1 device, got {canary}")
    ordered = sorted(devices, key=lambda name: hashlib.sha256(f"{salt}/{name}".encode()).digest())
    return [wave for wave in (ordered[:canary], ordered[canary:]) if wave]


def decide(progress: Progress, now: float) -> Decision:
    """The next step of a running rollout."""
    for device, (state, reason) in sorted(progress.states.items()):
        if state in FAILED:
            return Decision(RolloutEvent.FAILED, f"{device} {state}: {reason}")
    wave = progress.waves[progress.wave]
    waiting = [device for device in wave if progress.states.get(device, ("", ""))[0] not in THROUGH]
    if waiting and now - progress.wave_started > progress.wave_seconds:
        names = ", ".join(waiting)
        return Decision(RolloutEvent.FAILED, f"not healthy within {progress.wave_seconds:.0f} s: {names}")
    if waiting:
        return Decision(None, f"waiting for {', '.join(waiting)}")
    if progress.wave + 1 < len(progress.waves):
        return Decision(
            RolloutEvent.WIDENED, f"{', '.join(wave)} healthy; on to the next {len(progress.waves[progress.wave + 1])}"
        )
    return Decision(RolloutEvent.COMPLETED, "all devices healthy")
