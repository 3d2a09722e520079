"""Proving: a new model serves, and its predecessor answers a sample of the same live inputs beside it.

Pure counting. A model that was retrained after a drift disagrees on what drifted, and should: so agreement need only
show that it is the same kind of model at all; nonsense agrees by chance, once in as many answers as there are labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry_shared.states import UpdateEvent


@dataclass(frozen=True)
class Proof:
    """How many live answers were compared, and how many of them had the predecessor's top class."""

    compared: int = 0
    agreed: int = 0

    def add(self, agrees: bool) -> "Proof":
        """With one more comparison."""
        return Proof(self.compared + 1, self.agreed + agrees)


def top_label(scores: NDArray[np.floating], labels: Sequence[str]) -> str | None:
    """The label with the highest score; None if the scores are not one finite number a label."""
    if scores.shape != (len(labels),) or not np.isfinite(scores).all():
        return None
    return labels[int(scores.argmax())]


@dataclass(frozen=True)
class Verdict:
    """PROVEN or DISPROVEN, and why."""

    event: UpdateEvent
    reason: str


def judge(proof: Proof, answers: int, min_agreement: float, left_s: float) -> Verdict | None:
    """The verdict over ``answers`` comparisons, or None while it is open and time is left.

    It is final early where even full agreement from now on could not reach ``min_agreement``.
    """
    found = f"{proof.agreed} of {proof.compared} live answers agree with the predecessor's"
    if proof.agreed + max(answers - proof.compared, 0) < min_agreement * max(answers, proof.compared):
        return Verdict(UpdateEvent.DISPROVEN, f"{found}, needs {min_agreement:.0%} of {answers}")
    if proof.compared >= answers:
        return Verdict(UpdateEvent.PROVEN, found)
    if left_s <= 0:
        return Verdict(UpdateEvent.PROVEN, f"golden inputs; only {found} within the time given, {answers} were wanted")
    return None
