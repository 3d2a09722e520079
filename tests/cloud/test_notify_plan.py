from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.notify.plan import FIRST, LONGEST, Waiting, next_up, pause, step_reached

waitings = st.lists(
    st.builds(Waiting, st.integers(1, 30), st.integers(1, 4), st.floats(0, 100)), unique_by=lambda one: one.notice
)


@given(waitings, st.floats(0, 100))
def test_an_alarms_notices_never_overtake_each_other_and_none_is_early(waiting: list[Waiting], now: float) -> None:
    going = next_up(waiting, now)
    assert [one.notice for one in going] == sorted(one.notice for one in going)
    for one in going:
        assert one.due <= now
        assert not any(other.alarm == one.alarm and other.notice < one.notice for other in waiting)


@given(waitings)
def test_all_are_told_in_the_end(waiting: list[Waiting]) -> None:
    left, rounds = list(waiting), 0
    while left:
        for one in next_up(left, 100):
            left.remove(one)
        rounds += 1
        assert rounds <= len(waiting)


def test_pauses_double_up_to_the_longest() -> None:
    assert [pause(n) for n in (1, 2, 3)] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert pause(10_000) == LONGEST


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(1, 1e5), st.integers(0, 5))
def test_escalation_only_rises_and_ends_at_the_last_contact(
    opened: float, waited: float, every: float, top: int
) -> None:
    now = opened + waited
    step = step_reached(opened, now, every, top)
    assert 0 <= step <= top and step <= step_reached(opened, now + every, every, top)
    assert step == 0 or now - opened >= step * every
    assert step_reached(opened, opened - waited, every, top) == 0  # a clock that was set back
