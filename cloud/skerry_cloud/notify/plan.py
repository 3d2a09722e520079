"""When to tell whom again, and what next: pure, over plain data and a given time in Unix seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

FIRST, LONGEST = 5.0, 3600.0  # seconds between two attempts: doubled each time, up to the longest


@dataclass(frozen=True)
class Waiting:
    """A delivery that was not made yet; notices are numbered in the order of what happened."""

    notice: int
    alarm: int
    due: float


def pause(attempts: int) -> float:
    """Seconds until the next attempt, after so many that failed."""
    return float(min(FIRST * 2.0 ** min(attempts - 1, 60), LONGEST))


def next_up(waiting: Sequence[Waiting], now: float) -> list[Waiting]:
    """Of one route: what may go now, in order. An alarm's notices never overtake each other."""
    heads: dict[int, Waiting] = {}
    for one in sorted(waiting, key=lambda one: one.notice):
        heads.setdefault(one.alarm, one)
    return [one for one in heads.values() if one.due <= now]


def step_reached(opened: float, now: float, every: float, highest: int) -> int:
    """Of escalation: one for every so many seconds that an alarm is open, as far as there are contacts."""
    return min(int(max(now - opened, 0.0) // every), highest)
