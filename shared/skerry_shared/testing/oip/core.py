"""What a check is, how it ends, and what a report says."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skerry_shared.testing.oip.session import Session


class Level(str, Enum):
    """Whether a server that breaks it still conforms."""

    MUST = "must"
    SHOULD = "should"


class Outcome(str, Enum):
    """How a check ended."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"


class Broken(Exception):
    """The rule does not hold; the text is what was seen."""


class Skipped(Exception):
    """The check cannot be made; the text is why."""


@dataclass(frozen=True)
class Check:
    """A rule. ``run`` gives back what was seen, or raises Broken or Skipped."""

    id: str
    title: str
    clause: str  # of the specification, see ``clauses``
    level: Level
    run: "Callable[[Session], str]"


@dataclass(frozen=True)
class Result:
    """A check's end, and what was seen or why it was skipped."""

    check: Check
    outcome: Outcome
    seen: str

    def document(self) -> dict[str, str]:
        """For JSON."""
        check = self.check
        return {
            "id": check.id, "title": check.title, "clause": check.clause, "level": check.level.value,
            "outcome": self.outcome.value, "seen": self.seen,
        }  # fmt: skip


@dataclass(frozen=True)
class Report:
    """All results, in the order of the checks."""

    server: str
    model: str
    results: tuple[Result, ...]

    @property
    def broken(self) -> list[str]:
        """Ids of the MUST checks that failed."""
        return [r.check.id for r in self.results if r.outcome is Outcome.FAIL and r.check.level is Level.MUST]

    @property
    def conforms(self) -> bool:
        """No MUST is broken, and some were made."""
        return not self.broken and self.count(Outcome.PASS) > 0

    def count(self, outcome: Outcome, level: Level | None = None) -> int:
        """How many ended so."""
        return sum(r.outcome is outcome and level in (None, r.check.level) for r in self.results)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "server": self.server, "model": self.model, "conforms": self.conforms,
            "counts": {outcome.value: self.count(outcome) for outcome in Outcome},
            "checks": [result.document() for result in self.results],
        }  # fmt: skip


def expect(holds: object, seen: str) -> str:
    """``seen``. Raises Broken unless the rule holds."""
    if not holds:
        raise Broken(seen)
    return seen
