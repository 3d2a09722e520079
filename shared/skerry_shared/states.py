"""The machines as tables. A flow asks ``step``, stores the new state durably, and only then acts.

A state without a row in its table is final. An event that has no place in the present state raises and changes nothing.
"""

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from skerry_shared.errors import StateError


class Update(str, Enum):
    """A device taking in one assignment of one workload."""

    ASSIGNED = "assigned"  # the director's signature, counter and expiry hold
    FETCHING = "fetching"  # fits this device; metadata and bundle are being fetched and verified
    PROBING = "probing"  # unpacked in the spare slot; answers golden inputs
    PROVING = "proving"  # switched to: serves, and is compared with its predecessor on live inputs
    SHADOWING = "shadowing"  # serves nobody; answers a sample of live inputs beside the champion
    SHADOWED = "shadowed"  # … and has reported
    HEALTHY = "healthy"  # proven; it stays so unless it fails its bounds later
    REFUSED = "refused"  # never served
    UNDONE = "undone"  # served, then the predecessor was put back
    REPLACED = "replaced"  # a newer assignment came before this one was decided
    DROPPED = "dropped"  # the workload was taken off the device


class UpdateEvent(str, Enum):
    """What happens to an update."""

    FIT = "fit"
    VERIFIED = "verified"
    PASSED = "passed"
    BESIDE = "beside"  # passed, and is to answer beside the champion only
    COMPARED = "compared"
    PROVEN = "proven"
    REJECTED = "rejected"
    DISPROVEN = "disproven"
    REGRESSED = "regressed"  # was healthy, then crashed, failed golden inputs or left its bounds
    SUPERSEDED = "superseded"
    REMOVED = "removed"  # the assignment said to take the workload off


UPDATE: dict[Update, dict[UpdateEvent, Update]] = {
    Update.ASSIGNED: {
        UpdateEvent.FIT: Update.FETCHING,
        UpdateEvent.REMOVED: Update.DROPPED,
        UpdateEvent.REJECTED: Update.REFUSED,
        UpdateEvent.SUPERSEDED: Update.REPLACED,
    },
    Update.FETCHING: {
        UpdateEvent.VERIFIED: Update.PROBING,
        UpdateEvent.REJECTED: Update.REFUSED,
        UpdateEvent.SUPERSEDED: Update.REPLACED,
    },
    Update.PROBING: {
        UpdateEvent.PASSED: Update.PROVING,
        UpdateEvent.BESIDE: Update.SHADOWING,
        UpdateEvent.REJECTED: Update.REFUSED,
        UpdateEvent.SUPERSEDED: Update.REPLACED,
    },
    Update.PROVING: {
        UpdateEvent.PROVEN: Update.HEALTHY,
        UpdateEvent.DISPROVEN: Update.UNDONE,
        UpdateEvent.SUPERSEDED: Update.REPLACED,
    },
    Update.SHADOWING: {
        UpdateEvent.COMPARED: Update.SHADOWED,
        UpdateEvent.REJECTED: Update.REFUSED,
        UpdateEvent.SUPERSEDED: Update.REPLACED,
    },
    Update.HEALTHY: {UpdateEvent.REGRESSED: Update.UNDONE},
}
UNDER_WAY = frozenset(state for state, row in UPDATE.items() if UpdateEvent.SUPERSEDED in row)  # not decided yet


class Rollout(str, Enum):
    """A release on its way to a fleet."""

    RUNNING = "running"
    DONE = "done"
    HALTED = "halted"


class RolloutEvent(str, Enum):
    """What happens to a rollout."""

    WIDENED = "widened"  # a wave is healthy, the next one is assigned
    COMPLETED = "completed"  # the last wave is healthy
    FAILED = "failed"  # a device refused or undid it, or did not answer in time
    STOPPED = "stopped"  # an operator halted it


ROLLOUT: dict[Rollout, dict[RolloutEvent, Rollout]] = {
    Rollout.RUNNING: {
        RolloutEvent.WIDENED: Rollout.RUNNING,
        RolloutEvent.COMPLETED: Rollout.DONE,
        RolloutEvent.FAILED: Rollout.HALTED,
        RolloutEvent.STOPPED: Rollout.HALTED,
    },
}


class Health(str, Enum):
    """What one cohort (a device, a group, the fleet) is to one release of a model. Without an alarm it is ok."""

    OK = "ok"
    DATA_QUALITY = "data-quality"  # its data are faulty: mend the sensor, nothing is to be learned
    DRIFT = "drift"  # its traffic changed; whether that harms, labels will tell
    HARM = "harm"  # it is proven to be right less often than it was
    RETRAIN = "retrain"  # a candidate is being made of its samples
    CANARY = "canary"  # a release made of them is on its way to devices


class HealthEvent(str, Enum):
    """What happens to a cohort's health."""

    BROKE = "broke"  # an alarm of faulty data
    DRIFTED = "drifted"  # an alarm of drift
    HARMED = "harmed"
    STARTED = "started"  # a retraining for it
    GAVE_UP = "gave up"  # the candidate failed, or its rollout halted
    RELEASED = "released"
    RESOLVED = "resolved"  # it runs something newer, or an operator says so


HEALTH: dict[Health, dict[HealthEvent, Health]] = {
    Health.OK: {HealthEvent.BROKE: Health.DATA_QUALITY, HealthEvent.DRIFTED: Health.DRIFT},
    Health.DATA_QUALITY: {HealthEvent.RESOLVED: Health.OK},
    Health.DRIFT: {
        HealthEvent.HARMED: Health.HARM,
        HealthEvent.STARTED: Health.RETRAIN,
        HealthEvent.RESOLVED: Health.OK,
    },
    Health.HARM: {HealthEvent.STARTED: Health.RETRAIN, HealthEvent.RESOLVED: Health.OK},
    Health.RETRAIN: {
        HealthEvent.GAVE_UP: Health.DRIFT,
        HealthEvent.RELEASED: Health.CANARY,
        HealthEvent.RESOLVED: Health.OK,
    },
    Health.CANARY: {HealthEvent.GAVE_UP: Health.DRIFT, HealthEvent.RESOLVED: Health.OK},
}


class Alarm(str, Enum):
    """An alarm, from when it is raised."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"  # somebody looks into it; it escalates no further
    RESOLVED = "resolved"


class AlarmEvent(str, Enum):
    """What happens to an alarm."""

    ACKNOWLEDGED = "acknowledged"
    ASSIGNED = "assigned"  # to another owner
    WORSENED = "worsened"  # the same place changed further
    ESCALATED = "escalated"  # nobody acknowledged it in time: the next contacts are told
    RESOLVED = "resolved"


ALARM: dict[Alarm, dict[AlarmEvent, Alarm]] = {
    Alarm.OPEN: {
        AlarmEvent.ACKNOWLEDGED: Alarm.ACKNOWLEDGED,
        AlarmEvent.ASSIGNED: Alarm.OPEN,
        AlarmEvent.WORSENED: Alarm.OPEN,
        AlarmEvent.ESCALATED: Alarm.OPEN,
        AlarmEvent.RESOLVED: Alarm.RESOLVED,
    },
    Alarm.ACKNOWLEDGED: {
        AlarmEvent.ASSIGNED: Alarm.ACKNOWLEDGED,
        AlarmEvent.WORSENED: Alarm.ACKNOWLEDGED,
        AlarmEvent.RESOLVED: Alarm.RESOLVED,
    },
}

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


def step(table: Mapping[S, Mapping[E, S]], state: S, event: E) -> S:
    """The state after ``event``. Raises StateError if the table has no such transition."""
    row = table.get(state, {})
    if event not in row:
        raise StateError(f"{event.value!r} cannot happen while {state.value!r}")
    return row[event]
