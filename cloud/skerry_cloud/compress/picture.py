"""A study to look at: accuracy over latency, what is on the front and what was chosen; in a terminal and as PNG."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from skerry_cloud.compress.study import Figures, Search, Study

WIDTH, HEIGHT = 60, 14  # characters
FAR = 0.1  # of accuracy below the champion's: what is drawn would be pressed together
FLOAT, TRIED, FRONT, CHOSEN = "○", "·", "●", "★"
LEGEND = f"{CHOSEN} chosen  {FRONT} best of something  {TRIED} tried  {FLOAT} float"


def marked(study: Study, search: Search) -> list[tuple[str, Figures]]:
    """The marks of a search's picture with their figures, the most important last; not of what is far from good."""
    found = [(FLOAT, study.champion)]
    for trial in search.trials:
        if trial.figures and trial.figures.accuracy > study.champion.accuracy - FAR:
            mark = FRONT if trial.recipe in search.front else TRIED
            found.append((CHOSEN if trial.recipe == search.chosen else mark, trial.figures))
    return sorted(found, key=lambda pair: (TRIED, FLOAT, FRONT, CHOSEN).index(pair[0]))


def text(study: Study, search: Search) -> str:
    """For a terminal: accuracy upwards, latency to the right (logarithmic)."""
    points = marked(study, search)
    across = _scale([math.log(figures.latency_ms) for _, figures in points], WIDTH)
    up = _scale([figures.accuracy for _, figures in points], HEIGHT)
    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    for (mark, _), x, y in zip(points, across, up, strict=True):
        grid[HEIGHT - 1 - y][x] = mark
    return "\n".join(_framed(grid, [figures for _, figures in points]))


def png(study: Study, path: Path) -> None:
    """One panel for each kind of device; the area of a mark is the size of its file."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7, 4 * len(study.searches)), layout="constrained")
    for axes, search in zip(figure.subplots(len(study.searches), squeeze=False)[:, 0], study.searches, strict=True):
        colours = {TRIED: "silver", FLOAT: "black", FRONT: "tab:blue", CHOSEN: "tab:red"}
        for mark, each in marked(study, search):
            area = max(12.0, each.model_bytes / study.champion.model_bytes * 400)
            axes.scatter(each.latency_ms, each.accuracy * 100, area, colours[mark], alpha=0.7)
        axes.set(title=search.kind.name, xlabel="ms an answer, one thread", ylabel="% right", xscale="log")
        axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=120)


def _framed(grid: Sequence[Sequence[str]], found: Sequence[Figures]) -> Iterator[str]:
    accuracies, times = [each.accuracy for each in found], [each.latency_ms for each in found]
    names = {0: f"{max(accuracies):.2%}", HEIGHT - 1: f"{min(accuracies):.2%}"}
    for place, row in enumerate(grid):
        yield f"{names.get(place, ''):>8} │{''.join(row)}"
    yield f"{'':>8} └{'─' * WIDTH}"
    yield f"{'':>9} {min(times):.3f} ms{f'{max(times):.3f} ms':>{WIDTH - 8}}"
    yield f"{'':>9} {LEGEND}"


def _scale(values: Sequence[float], cells: int) -> Iterable[int]:
    low, span = min(values), (max(values) - min(values)) or 1.0
    return [round((value - low) / span * (cells - 1)) for value in values]
