"""What the agent does about once a second for itself and its board: looks at the models, at the heat, at the memory,
and gives back what loading a model took.

Decides by ``protect``; acts through the worker (a complaint, golden inputs once more, no crash after all) and through
``relieve`` (how much the agent may do from now on).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from skerry_edge import board, memory
from skerry_edge.config import Protect
from skerry_edge.machine import resident_bytes
from skerry_edge.protect.guard import Guard
from skerry_edge.protect.strain import Load, Strain, strain
from skerry_shared.profiles import Thermal

TIDY_S, TIDY_AGAIN_S = 5.0, 15.0  # from when a model begins to serve, by when what loaded it has ended; and then
LOOK_S = 5.0  # between looks at the board: heat takes longer than that to build up, and a look costs a millisecond


class Updates(Protocol):
    """Who can put another model in its place; see ``update.worker``."""

    def complain(self, workload: str, release: int, reason: str) -> None: ...  # noqa: D102
    def recheck(self) -> None: ...  # noqa: D102
    def settle(self) -> None: ...  # noqa: D102


@dataclass
class Due:
    """When things are to be done next, in seconds of the timer; infinite for never again."""

    look: float
    golden: float
    settled: float
    tidy: float


class Upkeep:
    """One agent's. ``tick`` is called by one thread at a time, the rest by any."""

    def __init__(
        self, settings: Protect, thermal: Thermal, updates: Updates, relieve: Callable[[Strain, str], None],
        timer: Callable[[], float],
    ) -> None:  # fmt: skip
        """``relieve`` hears of each change of strain and why; ``timer`` gives seconds and is never set."""
        self._settings, self._thermal, self._updates = settings, thermal, updates
        self._relieve, self._timer = relieve, timer
        self._strain, self._watched = Strain.NONE, dict[str, tuple[int, Guard]]()
        self.condition = board.Condition(None, False, "")  # as last seen
        now = timer()
        self._due = Due(now, now + settings.golden_s, now + settings.stable_s, now + TIDY_S)

    def watch(self, workload: str, release: int, guard: Guard) -> None:
        """From now on this release serves, seen by this guard."""
        self.forget(workload)
        self._watched[workload] = release, guard  # at the end: the youngest
        self._due.tidy = self._timer() + TIDY_S

    def forget(self, workload: str) -> None:
        """Nothing of this workload serves any more."""
        self._watched.pop(workload, None)

    def tick(self) -> None:
        """Do what is due."""
        now, due = self._timer(), self._due
        for workload, (release, guard) in list(self._watched.items()):
            if complaint := guard.look():
                self._updates.complain(workload, release, complaint)
        if now >= due.look:
            due.look = now + LOOK_S
            self._look_at_board()
        if now >= due.golden:
            due.golden = now + self._settings.golden_s
            self._updates.recheck()
        if now >= due.settled:
            due.settled = float("inf")
            self._updates.settle()
        if now >= due.tidy:
            due.tidy = now + TIDY_AGAIN_S
            memory.give_back()

    def _look_at_board(self) -> None:
        now, share = board.condition(self._thermal.zones), self._memory_share()
        self.condition = now
        watched = list(self._watched.items())
        if share > 1 and watched:
            budget, (workload, (release, _)) = self._settings.memory_mb, watched[-1]  # the youngest is suspected first
            self._updates.complain(
                workload, release, f"the agent takes {share * budget:.0f} MB of memory, allowed are {budget} MB"
            )
        after = strain(Load(now.hottest_c, now.throttled, share), self._thermal, self._strain)
        if after is not self._strain:
            heat = "unknown heat" if now.hottest_c is None else f"{now.hottest_c:.0f} °C"
            why = f"{heat}{', throttled' if now.throttled else ''}, {share:.0%} of the memory budget"
            self._strain = after
            self._relieve(after, why)

    def _memory_share(self) -> float:
        budget = self._settings.memory_mb << 20
        return resident_bytes() / budget if budget else 0.0
