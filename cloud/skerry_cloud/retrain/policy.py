"""When to retrain: pure, over plain data and a given time. Drift alone is not enough; it takes labels to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """See ``config.Retrain``."""

    min_labels: int
    cooldown_seconds: float
    epochs: int = 0
    max_loss: float | None = None


@dataclass(frozen=True)
class Situation:
    """A workload as the policy sees it. ``labelled`` counts labelled samples of alarmed devices since their alarm."""

    alarmed: Sequence[str]  # devices with an open alarm
    labelled: int
    busy: str  # what already goes on: "run 3 is training", "rollout 2 is running"; "" for nothing
    last_retrained: float  # Unix seconds; 0 for never


@dataclass(frozen=True)
class Verdict:
    """Retrain or wait, and why."""

    retrain: bool
    reason: str


def decide(policy: Policy, situation: Situation, now: float) -> Verdict:
    """Whether to start a retraining now."""
    if not situation.alarmed:
        return Verdict(False, "no open alarm")
    if situation.busy:
        return Verdict(False, situation.busy)
    left = situation.last_retrained + policy.cooldown_seconds - now
    if situation.last_retrained and left > 0:
        return Verdict(False, f"cooling down for another {left:.0f} s")
    if situation.labelled < policy.min_labels:
        return Verdict(False, f"{situation.labelled} of {policy.min_labels} labelled samples since the alarm")
    names = ", ".join(situation.alarmed)
    return Verdict(True, f"drift on {names}, and {situation.labelled} labelled samples to learn from")
