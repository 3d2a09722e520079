from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.retrain.harm import Accuracy
from skerry_cloud.retrain.policy import Cohort, Policy, Situation, decide

POLICY = Policy(min_labels=200, cooldown_seconds=600, min_harm=5.0)
HARMED = Cohort("edge-1", 0.9, Accuracy(0.75, 0.7, 0.8, 200))
WELL = Cohort("edge-2", 0.9, Accuracy(0.88, 0.8, 0.94, 200))
READY = Situation(cohorts=[HARMED], labelled=200, busy="", last_retrained=0)


def test_retrains_when_harm_is_proven_and_labels_are_there() -> None:
    verdict = decide(POLICY, READY, now=1000)
    assert verdict.retrain
    lost = "10.0 points or more lost on edge-1"
    assert verdict.reason == f"drift on edge-1, {lost}, and 200 labelled samples to learn from"


def test_each_missing_condition_waits_and_says_which() -> None:
    assert decide(POLICY, replace(READY, cohorts=[]), 1000).reason == "no open alarm"
    assert decide(POLICY, replace(READY, busy="run 3 is training"), 1000).reason == "run 3 is training"
    assert "199 of 200" in decide(POLICY, replace(READY, labelled=199), 1000).reason
    assert "cooling down" in decide(POLICY, replace(READY, last_retrained=900), 1000).reason
    assert "no harm is proven by 200" in decide(POLICY, replace(READY, cohorts=[WELL]), 1000).reason
    assert "14 o'clock" in decide(replace(POLICY, hours=(22, 23)), replace(READY, hour=14), 1000).reason


def test_drift_without_harm_retrains_only_where_the_policy_says_on_alarm() -> None:
    well = replace(READY, cohorts=[WELL])
    assert not decide(POLICY, well, 1000).retrain
    assert decide(replace(POLICY, on="alarm"), well, 1000).retrain


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
