"""Whether a retrained candidate may replace the champion: it must be better on recent data and no worse on the old.

Both models answer the same held-out examples; the statistics are those of ``paired``: the p-value of being better must
be at most alpha, and the upper confidence bound of the loss within the margin.
"""

from dataclasses import dataclass

from skerry_cloud.paired import Answered, loss_bound, p_better


@dataclass(frozen=True)
class Gate:
    """What a candidate must show: to lose less than ``max_loss`` points of accuracy on reference data, and to gain.

    ``alpha`` is the chance of passing one that is not better, and of passing one that loses as much as ``max_loss``.
    """

    max_loss: float
    alpha: float = 0.05


@dataclass(frozen=True)
class Figures:
    """Numbers of examples, shares of right answers; ``loss`` on reference data and its upper bound, in points."""

    recent: int
    champion_recent: float
    candidate_recent: float
    p_better: float
    reference: int
    champion_reference: float
    candidate_reference: float
    loss: float
    loss_bound: float


@dataclass(frozen=True)
class Verdict:
    """The decision, why in one line, and the figures that it rests on."""

    passed: bool
    reason: str
    figures: Figures


def compare(recent: Answered, reference: Answered, gate: Gate) -> Verdict:
    """Judge the candidate by recent and by reference held-out examples."""
    figures = Figures(
        recent=len(recent.champion),
        champion_recent=float(recent.champion.mean()),
        candidate_recent=float(recent.candidate.mean()),
        p_better=p_better(recent.won, recent.lost),
        reference=len(reference.champion),
        champion_reference=float(reference.champion.mean()),
        candidate_reference=float(reference.candidate.mean()),
        loss=(reference.lost - reference.won) / len(reference.champion) * 100,
        loss_bound=loss_bound(reference.won, reference.lost, len(reference.champion), gate.alpha) * 100,
    )
    if figures.p_better > gate.alpha:
        return Verdict(False, f"not shown to be better on recent data: {_recent(figures)}", figures)
    if figures.loss_bound > gate.max_loss:
        return Verdict(False, f"may lose more than {gate.max_loss:g} points on old data: {_old(figures)}", figures)
    return Verdict(True, f"better on recent data: {_recent(figures)}; holds on old data: {_old(figures)}", figures)


def _recent(figures: Figures) -> str:
    shares = f"{figures.candidate_recent:.3f} against {figures.champion_recent:.3f}"
    return f"{shares} of {figures.recent}, p = {figures.p_better:.2g}"


def _old(figures: Figures) -> str:
    shares = f"{figures.candidate_reference:.3f} against {figures.champion_reference:.3f}"
    return f"{shares} of {figures.reference}, loss at most {figures.loss_bound:.2f} points"
