from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.retrain.policy import Policy, Situation, decide

POLICY = Policy(min_labels=200, cooldown_seconds=600)
READY = Situation(alarmed=["edge-1"], labelled=200, busy="", last_retrained=0)


def test_retrains_when_drift_and_labels_are_there() -> None:
    verdict = decide(POLICY, READY, now=1000)
    assert verdict.retrain and "edge-1" in verdict.reason and "200" in verdict.reason


def test_each_missing_condition_waits_and_says_which() -> None:
    assert decide(POLICY, replace(READY, alarmed=[]), 1000).reason == "no open alarm"
    assert decide(POLICY, replace(READY, busy="run 3 is training"), 1000).reason == "run 3 is training"
    assert "199 of 200" in decide(POLICY, replace(READY, labelled=199), 1000).reason
    assert "cooling down" in decide(POLICY, replace(READY, last_retrained=900), 1000).reason


@given(st.integers(0, 500), st.sampled_from(["", "busy"]), st.floats(0, 2000), st.booleans())
def test_never_retrains_unless_all_conditions_hold(labelled: int, busy: str, last: float, alarmed: bool) -> None:
    situation = Situation(["edge-1"] if alarmed else [], labelled, busy, last)
    cooled = not last or 2000 - last >= 600
    assert decide(POLICY, situation, 2000).retrain == (alarmed and not busy and labelled >= 200 and cooled)
