import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.fleet.plan import Progress, decide, plan_waves
from skerry_shared.errors import UsageError
from skerry_shared.states import RolloutEvent, Update

names = st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True), min_size=1, max_size=30, unique=True)


@given(names, st.integers(1, 40), st.text(max_size=5))
def test_waves_hold_every_device_once_canaries_first(devices: list[str], canary: int, salt: str) -> None:
    waves = plan_waves(devices, canary, salt)
    assert sorted(name for wave in waves for name in wave) == sorted(devices)
    assert len(waves[0]) == min(canary, len(devices))
    assert all(waves)


@given(names, st.text(max_size=5))
def test_waves_do_not_depend_on_the_order_of_devices(devices: list[str], salt: str) -> None:
    assert plan_waves(devices, 1, salt) == plan_waves(devices[::-1], 1, salt)


def test_another_release_has_another_canary() -> None:
    devices = [f"device-{number}" for number in range(20)]
    assert len({plan_waves(devices, 1, f"fashion/{release}")[0][0] for release in range(20)}) > 5


def test_no_device_and_no_canary_are_refused() -> None:
    with pytest.raises(UsageError, match="no enrolled device"):
        plan_waves([], 1, "")
    with pytest.raises(UsageError, match="canary"):
        plan_waves(["a"], 0, "")


def progress(wave: int, **states: Update) -> Progress:
    told = {name: (state.value, "why") for name, state in states.items()}
    return Progress([["a"], ["b", "c"]], wave, 100.0, 60.0, told)


def test_a_wave_waits_until_all_of_it_is_healthy() -> None:
    assert decide(progress(0, a=Update.PROVING), 120).event is None
    assert decide(progress(0, a=Update.HEALTHY), 120).event is RolloutEvent.WIDENED
    assert decide(progress(1, a=Update.HEALTHY, b=Update.HEALTHY, c=Update.PROBING), 120).event is None
    done = decide(progress(1, a=Update.HEALTHY, b=Update.HEALTHY, c=Update.HEALTHY), 120)
    assert done.event is RolloutEvent.COMPLETED


@pytest.mark.parametrize("state", [Update.REFUSED, Update.UNDONE])
def test_one_failure_halts_with_the_devices_own_reason(state: Update) -> None:
    decision = decide(progress(1, a=Update.HEALTHY, b=Update.HEALTHY, c=state), 120)
    assert decision.event is RolloutEvent.FAILED
    assert decision.reason == f"c {state.value}: why"


@given(st.floats(0, 1e6))
def test_silence_counts_as_failure_after_the_deadline(elapsed: float) -> None:
    decision = decide(progress(0), 100.0 + elapsed)
    assert (decision.event is RolloutEvent.FAILED) == (elapsed > 60.0)
