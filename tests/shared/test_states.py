from typing import Any

import pytest

from skerry_shared.errors import StateError
from skerry_shared.states import (
    ALARM,
    HEALTH,
    ROLLOUT,
    UNDER_WAY,
    UPDATE,
    Alarm,
    AlarmEvent,
    Health,
    HealthEvent,
    Rollout,
    RolloutEvent,
    Update,
    UpdateEvent,
    step,
)

pytestmark = pytest.mark.arm64


@pytest.mark.parametrize(
    ("table", "states", "events"),
    [
        (UPDATE, Update, UpdateEvent),
        (ROLLOUT, Rollout, RolloutEvent),
        (ALARM, Alarm, AlarmEvent),
        (HEALTH, Health, HealthEvent),
    ],
)
def test_every_state_and_event_has_a_row_or_raises(table: Any, states: Any, events: Any) -> None:
    for state in states:
        for event in events:
            if event in table.get(state, {}):
                assert step(table, state, event) in states
            else:
                with pytest.raises(StateError, match="cannot happen while"):
                    step(table, state, event)


def test_every_state_of_an_update_can_be_reached_and_every_unfinished_one_left() -> None:
    reached, frontier = {Update.ASSIGNED}, [Update.ASSIGNED]
    while frontier:
        for after in UPDATE.get(frontier.pop(), {}).values():
            if after not in reached:
                reached.add(after)
                frontier.append(after)
    assert reached == set(Update)
    final = {
        Update.HEALTHY, Update.SHADOWED, Update.REFUSED, Update.UNDONE, Update.REPLACED, Update.DROPPED,
    }  # fmt: skip
    assert set(Update) - final == UNDER_WAY, "another one would be stuck when a newer assignment comes"


def test_a_healthy_update_can_only_be_undone() -> None:
    assert UPDATE[Update.HEALTHY] == {UpdateEvent.REGRESSED: Update.UNDONE}
