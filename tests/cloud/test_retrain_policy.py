from dataclasses import replace
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.retrain import policy as policy_module
from skerry_cloud.retrain.harm import Accuracy
from skerry_cloud.retrain.policy import Cohort, Policy, Situation, Spent, decide, month_began

POLICY = Policy(min_labels=200, cooldown_seconds=600, min_harm=5.0)
HARMED = Cohort("edge-1", 0.9, Accuracy(0.75, 0.7, 0.8, 200))
WELL = Cohort("edge-2", 0.9, Accuracy(0.88, 0.8, 0.94, 200))
READY = Situation(cohorts=[HARMED], labelled=200, busy="", last_retrained=0)


def test_retrains_when_harm_is_proven_and_labels_are_there() -> None:
    verdict = decide(POLICY, READY, now=1000)
    assert verdict.retrain
    lost = "10.0 points or more lost on edge-1"
    assert verdict.reason == f"{lost}; 200 labelled samples to learn from"


def test_each_missing_condition_waits_and_says_which() -> None:
    assert decide(POLICY, replace(READY, cohorts=[]), 1000).reason == "no open alarm"
    assert decide(POLICY, replace(READY, busy="run 3 is training"), 1000).reason == "run 3 is training"
    assert "199 of 200" in decide(POLICY, replace(READY, labelled=199), 1000).reason
    assert "cooling down" in decide(POLICY, replace(READY, last_retrained=900), 1000).reason
    assert "harm: nothing asks for it, by 200" in decide(POLICY, replace(READY, cohorts=[WELL]), 1000).reason
    assert "14 o'clock" in decide(replace(POLICY, hours=(22, 23)), replace(READY, hour=14), 1000).reason


def test_drift_without_harm_retrains_only_where_the_policy_says_on_alarm() -> None:
    well = replace(READY, cohorts=[WELL])
    assert not decide(POLICY, well, 1000).retrain
    assert decide(replace(POLICY, on=("alarm",)), well, 1000).retrain


QUIET = replace(READY, cohorts=[], trained=0.0, estimate=Accuracy(0.8, 0.78, 0.82, 500))
DAY = 86400.0


def test_what_else_may_ask_for_it() -> None:
    at = 10 * DAY
    for policy, words in [
        (
            replace(POLICY, on=("estimate",), min_accuracy=0.85),
            "accuracy is estimated 80.0%, 82.0% at most, below 85.0%",
        ),
        (replace(POLICY, on=("schedule",), every_days=10), "10.0 days since the last training"),
        (replace(POLICY, on=("labels",), new_labels=200), "200 new labels"),
        (replace(POLICY, on=("harm", "labels"), new_labels=200), "200 new labels"),
    ]:
        verdict = decide(policy, QUIET, at)
        assert verdict.retrain and verdict.reason == f"{words}; 200 labelled samples to learn from"
        assert "199 of 200" in decide(replace(policy, new_labels=1), replace(QUIET, labelled=199), at).reason
    assert not decide(replace(POLICY, on=("estimate",), min_accuracy=0.81), QUIET, at).retrain  # it may be right
    assert not decide(replace(POLICY, on=("schedule",), every_days=10), replace(QUIET, last_retrained=DAY), at).retrain
    assert not decide(replace(POLICY, on=("labels",), new_labels=201), QUIET, at).retrain
    nobody = replace(QUIET, estimate=policy_module.UNKNOWN)
    assert not decide(replace(POLICY, on=("estimate",), min_accuracy=0.99), nobody, at).retrain


def test_a_budget_is_kept_with_what_the_next_one_is_expected_to_take() -> None:
    spent = replace(READY, spent=Spent(minutes=50, money=5.0, last_minutes=10))
    assert decide(replace(POLICY, budget_minutes=60), spent, 1000).retrain
    for policy, words in [
        (replace(POLICY, budget_minutes=59), "50.00 minutes are spent, another 10.00 would exceed the budget of 59.00"),
        (replace(POLICY, budget_money=5.5, price=0.1), "5.00 of money are spent, another 1.00 would exceed"),
    ]:
        assert words in decide(policy, spent, 1000).reason


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 50), st.floats(0.1, 200), st.floats(0.01, 1))
def test_no_budget_is_ever_exceeded(minutes: float, money: float, last: float, budget: float, price: float) -> None:
    situation = replace(READY, spent=Spent(minutes, money, last))
    for policy, total in [
        (replace(POLICY, budget_minutes=budget), minutes + last),
        (replace(POLICY, budget_money=budget, price=price), money + last * price),
    ]:
        assert decide(policy, situation, 1000).retrain == (total <= budget)


@given(st.floats(1e8, 3e9))
def test_a_month_begins_on_its_first_day_before_now(now: float) -> None:
    began = datetime.fromtimestamp(month_began(now))
    assert (began.day, began.hour, began.minute) == (1, 0, 0) and 0 <= now - month_began(now) <= 31.1 * DAY


@given(
    st.integers(0, 500), st.sampled_from(["", "busy"]), st.floats(0, 2000), st.lists(st.sampled_from([HARMED, WELL])),
    st.integers(0, 23),
)  # fmt: skip
def test_never_retrains_unless_all_conditions_hold(
    labelled: int, busy: str, last: float, cohorts: list[Cohort], hour: int
) -> None:
    situation = Situation(cohorts, labelled, busy, last, hour)
    cooled = not last or 2000 - last >= 600
    holds = HARMED in cohorts and not busy and labelled >= 200 and cooled and hour in (2, 3)
    assert decide(replace(POLICY, hours=(2, 3)), situation, 2000).retrain == holds
