"""Which recipes are worth more effort: successive halving over several goals, as pure functions of what was measured.

All recipes are tried at a small share of their effort; of those that training improves, the better third goes on with
three times as much, and so on. Jamieson and Talwalkar, Non-stochastic Best Arm Identification, AISTATS 2016. *Better*
is said of accuracy, latency and size at once: non-dominated ones first, and among these the ones that lie farthest
apart. Schmucker et al., Multi-objective Asynchronous Successive Halving, 2021.
"""

import math
from collections.abc import Mapping

from skerry_cloud.compress.study import Figures, Goal

ETA = 3  # of so many one goes on, with so many times the effort
Point = tuple[float, ...]  # each coordinate is better if smaller


def shares(rungs: int) -> tuple[float, ...]:
    """The share of the whole effort on each rung, the last of which is 1.

    >>> shares(3)
    (0.1111111111111111, 0.3333333333333333, 1.0)
    """
    return tuple(float(ETA) ** (rung + 1 - rungs) for rung in range(rungs))


def survivors(found: Mapping[str, Figures], goal: Goal) -> list[str]:
    """Who goes on to the next rung, best first: a third of those that can still reach the goal, one at least.

    Size and latency do not change with training, so who breaks a limit of these is out.
    """
    able = {name: figures for name, figures in found.items() if within(figures, goal)}
    return ranked({name: point(figures) for name, figures in able.items()})[: math.ceil(len(able) / ETA)]


def within(figures: Figures, goal: Goal) -> bool:
    """Does it keep to the limits of size and latency?"""
    fits = goal.max_bytes is None or figures.model_bytes <= goal.max_bytes
    return fits and (goal.max_latency_ms is None or figures.latency_ms <= goal.max_latency_ms)


def point(figures: Figures) -> Point:
    """Wrong answers, and the logarithms of latency and size: a tenth less is worth as much of a large one as of a
    small one."""
    return 1 - figures.accuracy, math.log(figures.latency_ratio), math.log(figures.model_bytes)


def front(points: Mapping[str, Point]) -> list[str]:
    """The names that no other dominates, in order of their names' appearance."""
    return [name for name, here in points.items() if not any(dominates(other, here) for other in points.values())]


def dominates(one: Point, other: Point) -> bool:
    """Is ``one`` nowhere worse and somewhere better?"""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def ranked(points: Mapping[str, Point]) -> list[str]:
    """All names, front after front; within a front, the most accurate first and then who is farthest from those."""
    left, order = dict(points), list[str]()
    while left:
        best = front(left)
        order += _spread({name: left.pop(name) for name in best})
    return order


def _spread(points: Mapping[str, Point]) -> list[str]:
    """From the point that is best in the first coordinate on, always the one farthest from all before."""
    scaled = _scaled(points)
    order = [min(points, key=lambda name: points[name])]
    while len(order) < len(points):
        rest = (name for name in points if name not in order)
        order.append(max(rest, key=lambda name: min(math.dist(scaled[name], scaled[taken]) for taken in order)))
    return order


def _scaled(points: Mapping[str, Point]) -> dict[str, Point]:
    """Every coordinate from 0 to 1."""
    columns = list(zip(*points.values(), strict=True))
    ranges = [(min(column), (max(column) - min(column)) or 1.0) for column in columns]
    return {
        name: tuple((value - low) / span for value, (low, span) in zip(here, ranges, strict=True))
        for name, here in points.items()
    }


def preferred(found: Mapping[str, Figures], goal: Goal, close: float = 0.03) -> list[str]:
    """Candidates in the order in which the gates are asked.

    Those within all limits that would pass on validation rows; of these the fastest first, and where latencies are
    within ``close`` of each other, the smaller, then the more accurate. Where there are none, the most accurate within
    the limits: the gates shall say what is wrong with it.
    """
    able = [name for name in found if within(found[name], goal)]
    hopeful = [name for name in able if found[name].loss_bound <= goal.max_drop]
    order = list[str]()
    while hopeful:
        limit = min(found[name].latency_ratio for name in hopeful) * (1 + close)
        best = min(
            (name for name in hopeful if found[name].latency_ratio <= limit),
            key=lambda name: (found[name].model_bytes, -found[name].accuracy),
        )
        hopeful.remove(best)
        order.append(best)
    return order or sorted(able, key=lambda name: found[name].loss_bound)[:1]
