"""Shadow: a candidate answers a sample of the live inputs beside the champion, and nobody hears it.

Counted purely. Agreement comes with an interval, for 45 of 50 is not 900 of 1000. Both models answer the sampled input
one after the other in the same thread, so that their times can be compared with each other (not with those of the hot
path), and take turns in going first, for the second one finds the caches warm.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from skerry_edge.update.prove import top_label
from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import Model, Tensors

REMEMBERED = 4096  # times of each model; enough for a stable 99th percentile
Z = 1.959963984540054  # of the normal distribution: an interval of 95 %


class Settings(Protocol):
    """When a shadow has seen enough; see ``config.Shadow``."""

    @property
    def answers(self) -> int: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102


class Contestant(Protocol):
    """A loaded model and the labels of its scores."""

    @property
    def model(self) -> Model: ...  # noqa: D102
    @property
    def labels(self) -> Sequence[str]: ...  # noqa: D102


def _times() -> deque[float]:
    return deque(maxlen=REMEMBERED)


@dataclass
class Side:
    """What one of the two models answered: labels, None for no usable answer, and seconds."""

    tops: "Counter[str | None]" = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=_times)

    def quantile_ms(self, q: float) -> float:
        """Milliseconds within which the share ``q`` of its answers came; 0 before the first."""
        return float(np.quantile(list(self.seconds), q)) * 1e3 if self.seconds else 0.0


@dataclass
class Comparison:
    """Answers of both to the same inputs."""

    compared: int = 0
    agreed: int = 0
    champion: Side = field(default_factory=Side)
    candidate: Side = field(default_factory=Side)

    def ask(self, champion: Contestant, candidate: Contestant, inputs: Tensors, timer: Callable[[], float]) -> None:
        """Let both answer ``inputs``, a batch of one; ``timer`` gives seconds."""
        if self.compared % 2:
            theirs = _timed(candidate, inputs, timer)
            ours = _timed(champion, inputs, timer)
        else:
            ours = _timed(champion, inputs, timer)
            theirs = _timed(candidate, inputs, timer)
        self.add(ours, theirs)

    def add(self, champion: tuple[str | None, float], candidate: tuple[str | None, float]) -> None:
        """One more answer of each: (label, seconds)."""
        self.compared += 1
        self.agreed += candidate[0] is not None and champion[0] == candidate[0]
        for side, (top, seconds) in ((self.champion, champion), (self.candidate, candidate)):
            side.tops[top] += 1
            side.seconds.append(seconds)

    @property
    def failed(self) -> int:
        """Answers that the candidate owes."""
        return self.candidate.tops[None]

    @property
    def shift(self) -> float:
        """Share of the answers that went to other classes: total variation distance, 0 to 1."""
        one, other = self.champion.tops, self.candidate.tops
        return sum(abs(one[top] - other[top]) for top in one | other) / 2 / max(1, self.compared)

    def row(self) -> dict[str, Any]:
        """The columns of telemetry table "shadow" that are about the comparison."""
        low, high = wilson(self.agreed, self.compared)
        figures = {"compared": self.compared, "agreed": self.agreed, "failed": self.failed, "shift": self.shift}
        figures |= {"agreement_low": low, "agreement_high": high}
        for name, side in (("champion", self.champion), ("candidate", self.candidate)):
            figures |= {f"{name}_p50_ms": side.quantile_ms(0.5), f"{name}_p99_ms": side.quantile_ms(0.99)}
        return figures

    def summary(self) -> str:
        """For people."""
        low, high = wilson(self.agreed, self.compared)
        times = f"{self.candidate.quantile_ms(0.5):.2f} ms against {self.champion.quantile_ms(0.5):.2f} ms"
        return f"agrees on {self.agreed} of {self.compared} live answers ({low:.0%} to {high:.0%}), {times}"


def _timed(contestant: Contestant, inputs: Tensors, timer: Callable[[], float]) -> tuple[str | None, float]:
    began = timer()
    try:
        scores = np.asarray(contestant.model.run(inputs)["scores"][0])
    except ModelError:
        return None, timer() - began
    return top_label(scores, contestant.labels), timer() - began


def wilson(agreed: int, compared: int) -> tuple[float, float]:
    """The 95 % interval of a share that was found in ``agreed`` of ``compared`` cases (Wilson 1927, eq. 10)."""
    if not compared:
        return 0.0, 1.0
    share, z2n = agreed / compared, Z * Z / compared
    middle, half = share + z2n / 2, Z * math.sqrt(share * (1 - share) / compared + z2n / (4 * compared))
    return max(0.0, (middle - half) / (1 + z2n)), min(1.0, (middle + half) / (1 + z2n))
