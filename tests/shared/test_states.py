from typing import Any

import pytest

from skerry_shared.errors import StateError
from skerry_shared.states import ROLLOUT, UPDATE, Rollout, RolloutEvent, Update, UpdateEvent, step


@pytest.mark.parametrize(
    ("table", "states", "events"), [(UPDATE, Update, UpdateEvent), (ROLLOUT, Rollout, RolloutEvent)]
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
    for state, row in UPDATE.items():
        assert UpdateEvent.SUPERSEDED in row, f"{state} would be stuck when a newer assignment comes"
