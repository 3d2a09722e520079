"""Proving: a new model serves, and its predecessor answers a sample of the same live inputs beside it.

Two kinds of evidence, counted purely. Late labels say who was *right*: enough of them decide. Agreement needs no labels
but says less: a model that was retrained after a drift disagrees with a predecessor that the drift has harmed, and
should. So agreement need only show that it is the same kind of model at all (nonsense agrees by chance, once in as many
answers as there are labels). Where it does not, and labels do come on this device, they get a little time to say
otherwise.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skerry_shared.states import UpdateEvent

REMEMBERED = 4096  # answers that may wait for their label, and labels for their answer; the oldest give way

Tops = tuple[str | None, str | None]  # the candidate's and the predecessor's label; None for no usable answer


class Bounds(Protocol):
    """When a new model counts as healthy; see ``config.Health``."""

    @property
    def proving_answers(self) -> int: ...  # noqa: D102
    @property
    def min_agreement(self) -> float: ...  # noqa: D102
    @property
    def max_loss(self) -> float: ...  # noqa: D102
    @property
    def labels_s(self) -> float: ...  # noqa: D102


@dataclass
class Proof:
    """Live answers of both models, and what late labels say of them."""

    compared: int = 0
    agreed: int = 0
    labelled: int = 0
    right: int = 0  # of the labelled ones, the candidate's
    right_before: int = 0  # … the predecessor's
    told: int = 0  # labels that came since the switch, of these answers or of others
    _answers: "OrderedDict[str, Tops]" = field(default_factory=OrderedDict)
    _truths: "OrderedDict[str, str]" = field(default_factory=OrderedDict)

    def add(self, prediction_id: str, candidate: str | None, predecessor: str | None) -> None:
        """One more answer of both."""
        self.compared += 1
        self.agreed += candidate is not None and candidate == predecessor
        self._answers[prediction_id] = candidate, predecessor
        self._match(prediction_id)

    def fail(self) -> None:
        """The candidate could not answer a live request."""
        self.compared += 1

    def truth(self, prediction_id: str, label: str) -> None:
        """What a prediction should have been; it may come before the answers are compared."""
        self.told += 1
        self._truths[prediction_id] = label
        self._match(prediction_id)

    def _match(self, prediction_id: str) -> None:
        if prediction_id in self._answers and prediction_id in self._truths:
            candidate, predecessor = self._answers.pop(prediction_id)
            label = self._truths.pop(prediction_id)
            self.labelled += 1
            self.right += candidate == label
            self.right_before += predecessor == label
        for waiting in (self._answers, self._truths):
            while len(waiting) > REMEMBERED:
                waiting.popitem(last=False)


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


def judge(proof: Proof, bounds: Bounds, passed_s: float, left_s: float) -> Verdict | None:
    """The verdict, or None while it is open. ``passed_s`` seconds since the switch, ``left_s`` until the deadline."""
    if proof.labelled >= bounds.proving_answers:
        return _by_labels(proof, bounds.max_loss)
    found = f"{proof.agreed} of {proof.compared} live answers agree with the predecessor's"
    if _hopeless(proof, bounds):
        if proof.told and passed_s < bounds.labels_s and left_s > 0:
            return None
        needed = f"needs {bounds.min_agreement:.0%} of {bounds.proving_answers}"
        return Verdict(UpdateEvent.DISPROVEN, f"{found}, {needed}, and no labels say that it is right")
    if proof.compared >= bounds.proving_answers:
        return Verdict(UpdateEvent.PROVEN, found)
    if left_s <= 0:
        wanted = f"{bounds.proving_answers} were wanted"
        return Verdict(UpdateEvent.PROVEN, f"golden inputs; only {found} within the time given, {wanted}")
    return None


def _by_labels(proof: Proof, max_loss: float) -> Verdict:
    figures = (
        f"right on {proof.right} of {proof.labelled} labelled live answers, its predecessor on {proof.right_before}"
    )
    lost = (proof.right_before - proof.right) / proof.labelled
    return Verdict(UpdateEvent.DISPROVEN if lost > max_loss else UpdateEvent.PROVEN, figures)


def _hopeless(proof: Proof, bounds: Bounds) -> bool:
    """Even full agreement from now on could not reach the share that is needed."""
    answers = max(bounds.proving_answers, proof.compared)
    return proof.agreed + answers - proof.compared < bounds.min_agreement * answers
