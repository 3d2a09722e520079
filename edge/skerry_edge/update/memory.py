"""The memory that the models of a device may take together, and how much of it each workload has."""

import threading

from skerry_shared.errors import UnfitError


class Memory:
    """Thread-safe. Megabytes, as they were measured when each model was tried."""

    def __init__(self, budget_mb: float) -> None:
        self._budget, self._lock, self._taken = budget_mb, threading.Lock(), dict[str, float]()

    def admit(self, workload: str, needed_mb: float) -> None:
        """Let the workload take so much. Raises UnfitError if that is more than the others leave."""
        with self._lock:
            others = {name: taken for name, taken in self._taken.items() if name != workload}
            if sum(others.values()) + needed_mb > self._budget:
                raise UnfitError(self._described(needed_mb, others))
            self._taken[workload] = needed_mb

    def note(self, workload: str, taken_mb: float) -> None:
        """The workload takes so much, whether or not it may: what served before serves on."""
        with self._lock:
            self._taken[workload] = taken_mb

    def _described(self, needed_mb: float, others: dict[str, float]) -> str:
        beside = ", ".join(f"{name} {taken:.0f} MB" for name, taken in sorted(others.items()) if taken)
        budget = f"all models may take {self._budget:.0f} MB (models_mb in agent.toml)"
        return f"memory: needs {needed_mb:.0f} MB{f' beside {beside}' if beside else ''}; {budget}"
