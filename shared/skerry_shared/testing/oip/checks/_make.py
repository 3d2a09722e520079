"""How the modules beside this one write their checks down."""

from collections.abc import Callable

from skerry_shared.testing.oip.core import Check, Level
from skerry_shared.testing.oip.session import Session

Run = Callable[[Session], str]


class Checks(list[Check]):
    """Checks under a common prefix of their ids."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def must(self, name: str, title: str, clause: str) -> Callable[[Run], Run]:
        """Decorates a check of level MUST."""
        return self._add(name, title, clause, Level.MUST)

    def should(self, name: str, title: str, clause: str) -> Callable[[Run], Run]:
        """Decorates a check of level SHOULD."""
        return self._add(name, title, clause, Level.SHOULD)

    def _add(self, name: str, title: str, clause: str, level: Level) -> Callable[[Run], Run]:
        def add(run: Run) -> Run:
            self.append(Check(f"{self._prefix}.{name}", title, clause, level, run))
            return run

        return add
