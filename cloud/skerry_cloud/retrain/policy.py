"""When to retrain: pure, over plain data and a given time. Drift alone is not enough; it takes labels to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from skerry_cloud.retrain.harm import Accuracy

Trigger = Literal["harm", "alarm"]


@dataclass(frozen=True)
class Policy:
    """See ``config.Retrain``."""

    min_labels: int
    cooldown_seconds: float
    epochs: int = 0
    max_loss: float | None = None
    on: Trigger = "harm"
    min_harm: float = 2.0
    approval: bool = False
    hours: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cohort:
    """Who drifted: its name, the model's accuracy before (0 to 1), and what labels prove of it now."""

    name: str
    before: float
    now: Accuracy

    def lost(self) -> float:
        """Points of accuracy that it lost at least."""
        return (self.before - self.now.high) * 100


@dataclass(frozen=True)
class Situation:
    """A workload as the policy sees it. ``labelled`` counts labelled samples of the cohorts since their alarm."""

    cohorts: Sequence[Cohort]  # with an open alarm of drift
    labelled: int
    busy: str  # what already goes on: "run 3 is training", "rollout 2 is running"; "" for nothing
    last_retrained: float  # Unix seconds; 0 for never
    hour: int = 0  # of the day, 0 to 23, where the cloud runs


@dataclass(frozen=True)
class Verdict:
    """Retrain or wait, and why."""

    retrain: bool
    reason: str


def hindered(policy: Policy, situation: Situation, now: float) -> str:
    """What keeps a retraining from starting now, whatever labels say; "" for nothing."""
    if not situation.cohorts:
        return "no open alarm"
    if situation.busy:
        return situation.busy
    left = situation.last_retrained + policy.cooldown_seconds - now
    if situation.last_retrained and left > 0:
        return f"cooling down for another {left:.0f} s"
    if policy.hours and situation.hour not in policy.hours:
        return f"{situation.hour} o'clock is not among the hours for retraining"
    return ""


def decide(policy: Policy, situation: Situation, now: float) -> Verdict:
    """Whether to start a retraining now."""
    if hindrance := hindered(policy, situation, now):
        return Verdict(False, hindrance)
    harmed = [cohort for cohort in situation.cohorts if is_harmed(policy, cohort)]
    if policy.on == "harm" and not harmed:
        return Verdict(False, f"no harm is proven by {situation.labelled} labelled samples since the alarm")
    if situation.labelled < policy.min_labels:
        return Verdict(False, f"{situation.labelled} of {policy.min_labels} labelled samples since the alarm")
    names = ", ".join(cohort.name for cohort in situation.cohorts)
    lost = "".join(f", {cohort.lost():.1f} points or more lost on {cohort.name}" for cohort in harmed)
    return Verdict(True, f"drift on {names}{lost}, and {situation.labelled} labelled samples to learn from")


def is_harmed(policy: Policy, cohort: Cohort) -> bool:
    """Is it proven to have lost as much accuracy as counts?"""
    return cohort.lost() >= policy.min_harm
