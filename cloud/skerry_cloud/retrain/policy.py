"""When to retrain: pure, over plain data and a given time. Nothing is retrained without labels to learn from."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from skerry_cloud.retrain.harm import Accuracy

DAY = 86400.0
UNKNOWN = Accuracy(math.nan, 0.0, 1.0, 0)

Trigger = Literal["harm", "alarm", "estimate", "schedule", "labels"]


@dataclass(frozen=True)
class Policy:
    """See ``config.Retrain``. A limit of 0 is none."""

    min_labels: int
    cooldown_seconds: float
    enabled: bool = True
    epochs: int = 0
    max_loss: float | None = None
    on: tuple[Trigger, ...] = ("harm",)
    min_harm: float = 2.0
    min_accuracy: float = 0.0
    every_days: float = 0.0
    new_labels: int = 0
    approval: bool = False
    hours: tuple[int, ...] = ()
    budget_minutes: float = 0.0
    budget_money: float = 0.0
    price: float = 0.0  # of a minute
    pseudo_labels: int = 0
    pseudo_sure: float = 1.0

    @property
    def looks_without_alarm(self) -> bool:
        """Is there anything but an alarm that it acts upon?"""
        return self.enabled and not set(self.on) <= {"harm", "alarm"}


@dataclass(frozen=True)
class Policies:
    """Of each workload: its own, else the common one."""

    common: Policy
    own: Mapping[str, Policy] = field(default_factory=dict)

    def of(self, workload: str) -> Policy:
        """What holds for this workload."""
        return self.own.get(workload, self.common)

    def share(self, workload: str, other: str) -> bool:
        """Do retrainings of both count against one budget?"""
        return workload == other or not {workload, other} & self.own.keys()


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
class Spent:
    """In this month so far, by what shares the budget, and by the workload's last one: the next may take that."""

    minutes: float = 0.0
    money: float = 0.0
    last_minutes: float = 0.0


@dataclass(frozen=True)
class Situation:
    """A workload as the policy sees it. ``labelled`` counts labelled samples that a retraining would learn from."""

    cohorts: Sequence[Cohort]  # with an unresolved alarm of drift
    labelled: int
    busy: str  # what already goes on: "run 3 is training", "rollout 2 is running"; "" for nothing
    last_retrained: float  # Unix seconds; 0 for never
    hour: int = 0  # of the day, 0 to 23, where the cloud runs
    trained: float = 0.0  # Unix seconds, when the champion was
    estimate: Accuracy = UNKNOWN  # of the champion on all of its devices, without labels
    spent: Spent = field(default_factory=Spent)


@dataclass(frozen=True)
class Verdict:
    """Retrain or wait, and why."""

    retrain: bool
    reason: str


def hindered(policy: Policy, situation: Situation, now: float) -> str:
    """What keeps a retraining from starting now, whatever labels say; "" for nothing."""
    if not policy.enabled:
        return "retraining is off"
    if not situation.cohorts and not policy.looks_without_alarm:
        return "no open alarm"
    if situation.busy:
        return situation.busy
    left = situation.last_retrained + policy.cooldown_seconds - now
    if situation.last_retrained and left > 0:
        return f"cooling down for another {left:.0f} s"
    if policy.hours and situation.hour not in policy.hours:
        return f"{situation.hour} o'clock is not among the hours for retraining"
    return _over_budget(policy, situation.spent)


def decide(policy: Policy, situation: Situation, now: float) -> Verdict:
    """Whether to start a retraining now."""
    if hindrance := hindered(policy, situation, now):
        return Verdict(False, hindrance)
    reasons = [reason for trigger in policy.on if (reason := TRIGGERS[trigger](policy, situation, now))]
    if not reasons:
        return Verdict(False, f"{', '.join(policy.on)}: nothing asks for it, by {situation.labelled} labelled samples")
    if situation.labelled < policy.min_labels:
        return Verdict(False, f"{situation.labelled} of {policy.min_labels} labelled samples to learn from")
    return Verdict(True, f"{'; '.join(reasons)}; {situation.labelled} labelled samples to learn from")


def is_harmed(policy: Policy, cohort: Cohort) -> bool:
    """Is it proven to have lost as much accuracy as counts?"""
    return cohort.lost() >= policy.min_harm


def month_began(now: float) -> float:
    """The start of the calendar month where the cloud runs, Unix seconds."""
    return datetime.fromtimestamp(now).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()


def _over_budget(policy: Policy, spent: Spent) -> str:
    """The next one is expected to take as long as the last one did."""
    minutes, money = spent.minutes + spent.last_minutes, spent.money + spent.last_minutes * policy.price
    if policy.budget_minutes and minutes > policy.budget_minutes:
        return _exceeds(spent.minutes, spent.last_minutes, policy.budget_minutes, "minutes")
    if policy.budget_money and money > policy.budget_money:
        return _exceeds(spent.money, spent.last_minutes * policy.price, policy.budget_money, "of money")
    return ""


def _exceeds(spent: float, next_one: float, budget: float, unit: str) -> str:
    return f"this month {spent:.2f} {unit} are spent, another {next_one:.2f} would exceed the budget of {budget:.2f}"


def _on_harm(policy: Policy, situation: Situation, _: float) -> str:
    harmed = [cohort for cohort in situation.cohorts if is_harmed(policy, cohort)]
    return ", ".join(f"{cohort.lost():.1f} points or more lost on {cohort.name}" for cohort in harmed)


def _on_alarm(_: Policy, situation: Situation, __: float) -> str:
    names = ", ".join(cohort.name for cohort in situation.cohorts)
    return f"drift on {names}" if names else ""


def _on_estimate(policy: Policy, situation: Situation, _: float) -> str:
    """All of the interval has to be below."""
    found = situation.estimate
    if not found.size or found.high >= policy.min_accuracy:
        return ""
    return f"accuracy is estimated {found.value:.1%}, {found.high:.1%} at most, below {policy.min_accuracy:.1%}"


def _on_schedule(policy: Policy, situation: Situation, now: float) -> str:
    days = (now - max(situation.trained, situation.last_retrained)) / DAY
    return f"{days:.1f} days since the last training" if policy.every_days and days >= policy.every_days else ""


def _on_labels(policy: Policy, situation: Situation, _: float) -> str:
    enough = policy.new_labels and situation.labelled >= policy.new_labels
    return f"{situation.labelled} new labels" if enough else ""


TRIGGERS: Mapping[Trigger, Callable[[Policy, Situation, float], str]] = {
    "harm": _on_harm, "alarm": _on_alarm, "estimate": _on_estimate, "schedule": _on_schedule, "labels": _on_labels,
}  # fmt: skip
