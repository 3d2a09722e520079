"""How much the agent may ask of the board: less when it is warm, as little as can be when it is hot or short of memory.

What it gives up, in this order, is what only the cloud misses: shadow answers, samples, requests of low priority. An
application's answer comes last. Pure; the agent acts.
"""

from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import Protocol

RELIEF_C = 5.0  # a board must cool by so much below a limit before it counts as cooler; else it would swing
SPARE = 0.9  # of the memory budget: above it as little as possible


class Strain(IntEnum):
    """The more, the less the agent may do."""

    NONE = 0
    WARM = 1
    HOT = 2


class Limits(Protocol):
    """Where it gets warm and hot, degrees Celsius; see ``profiles.Thermal``."""

    @property
    def warm_c(self) -> float: ...  # noqa: D102
    @property
    def hot_c(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Load:
    """How the board fares."""

    hottest_c: float | None  # None where it has no sensor
    throttled: bool  # the kernel slows it down already
    memory_share: float = 0.0  # of the agent's memory budget; 0 without one


@dataclass(frozen=True)
class Allowance:
    """What the agent may do."""

    sample_share: float  # of the samples that the configuration asks for
    shadow: bool  # may a candidate answer beside the champion?
    threads: int  # of a model that is loaded now
    priority: float  # of a request that is served at all; those of low priority have one below 0


def strain(load: Load, limits: Limits, before: Strain) -> Strain:
    """The strain now, given the one before."""
    if load.throttled or load.memory_share > SPARE:
        return Strain.HOT
    if load.hottest_c is None:
        return Strain.NONE
    relief = {level: RELIEF_C if before >= level else 0.0 for level in Strain}
    if load.hottest_c >= limits.hot_c - relief[Strain.HOT]:
        return Strain.HOT
    return Strain.WARM if load.hottest_c >= limits.warm_c - relief[Strain.WARM] else Strain.NONE


def allowance(level: Strain, threads: int) -> Allowance:
    """What may be done under this strain, where ``threads`` are configured."""
    if level is Strain.NONE:
        return Allowance(1.0, True, threads, -inf)
    if level is Strain.WARM:
        return Allowance(0.25, False, max(1, threads // 2), -inf)
    return Allowance(0.05, False, 1, 0)
