"""A study as one page of HTML that needs nothing else: no script, no font, no picture from anywhere. Dark and light."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape

from skerry_cloud.compress.study import Figures, OnDevice, Search, Study, Trial, Verdict

WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 18, 44  # margins of the plot
RADII = 4.0, 13.0  # of the smallest and the largest model
SHOWN = 0.12  # of accuracy below the float model: what loses more is not in the picture
BLAMED = 12  # operators that are shown

STYLE = """
:root { color-scheme: light dark; --ink: #16202b; --soft: #5b6875; --line: #d8dee5; --paper: #ffffff; --card: #f5f7f9;
  --accent: #0b6e8a; --good: #1d7f45; --bad: #b3362c; --grey: #9aa6b2 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9aa7b4; --line: #323c47; --paper: #12181f;
  --card: #1b232c; --accent: #4fb8d8; --good: #58c184; --bad: #ef7d72; --grey: #66727f } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.7rem; margin: 0; line-height: 1.2 } h2 { font-size: 1.25rem; margin: 3rem 0 .2rem }
h3 { font-size: 1rem; margin: 1.8rem 0 .4rem } p { margin: .3rem 0 } .soft { color: var(--soft) }
code { font: .86em/1.4 ui-monospace, monospace } .cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0 }
.card { background: var(--card); border-radius: .6rem; padding: .7rem 1rem; min-width: 8.5rem }
.card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums } .card span { color: var(--soft) }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .85rem }
th, td { padding: .38rem .7rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
td.number, th.number { text-align: right; white-space: nowrap } tr.chosen td { font-weight: 600 }
.good { color: var(--good) } .bad { color: var(--bad) } svg { width: 100%; height: auto; display: block }
svg text { fill: var(--soft); font-size: 12px } svg .grid { stroke: var(--line) }
svg .front { stroke: var(--accent); stroke-width: 1.5; fill: none; stroke-dasharray: 5 4 }
svg .dot { fill: var(--grey); fill-opacity: .35; stroke: var(--grey) }
svg .best { fill: var(--accent); stroke: var(--accent) }
svg .pick { fill: var(--good); stroke: var(--good); fill-opacity: .8 }
summary { cursor: pointer; padding: .45rem 0 } details td:first-child { white-space: nowrap }
table.blame th:last-child { width: 45% }
svg .float { fill: none; stroke: var(--ink); stroke-width: 1.5 }
svg .name { fill: var(--ink); font-weight: 600 } 
.bar { min-width: .3rem; background: var(--accent); height: .6rem; border-radius: .3rem }
"""

Cell = tuple[str, bool]  # HTML, and whether it is a number


def render(study: Study) -> str:
    """The page. Whatever comes from outside is escaped."""
    body = "\n".join([_head(study), *(_search(study, search) for search in study.searches)])
    title = f"{escape(study.workload)}: compression"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _head(study: Study) -> str:
    goal, when = study.goal, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(study.created))
    limits = [f"at most {goal.max_drop:g} points lost, {goal.max_slice_drop:g} in a slice or under a corruption"]
    limits += [f"at most {_size(goal.max_bytes)}"] if goal.max_bytes else []
    limits += [f"at most {_ms(goal.max_latency_ms)}"] if goal.max_latency_ms else []
    limits += [f"{goal.minutes:g} minutes to search"] if goal.minutes else ["no search"]
    machine = f"{study.machine.cpu} ({study.machine.arch}), {study.machine.runtime}"
    return (
        f"<h1>{escape(study.workload)}: compression</h1>\n"
        f'<p class="soft">dataset {study.dataset} · {when} · {escape("; ".join(limits))}</p>\n'
        f'<p class="soft">Latencies: one input, one thread, on {escape(machine)}. Accuracy: of validation rows; the '
        f"gates judge on test rows, which chose nothing.</p>\n"
        f"{_cards('the float model', study.champion)}"
    )


def _search(study: Study, search: Search) -> str:
    numbers = {trial.recipe: place for place, trial in enumerate(_ordered(search), start=1)}
    chosen = next((trial for trial in _ordered(search) if trial.recipe == search.chosen), None)
    parts = [
        f"<h2>{escape(search.kind.name)}</h2>",
        f'<p class="soft">for {escape(", ".join(search.profiles))}</p>',
        _cards("chosen", chosen.figures, study.champion) if chosen and chosen.figures else "",
        f'<p class="{"good" if chosen else "bad"}">{escape(search.reason)}</p>',
        _plot(study.champion, search, numbers),
        _table(
            ("#", "recipe", "accuracy", "drop, at most", "size", "latency", "of float", "rung", ""),
            (_trial(trial, search, numbers[trial.recipe]) for trial in _ordered(search)),
        ),
        _devices(search, numbers),
        *(_gates(trial, numbers[trial.recipe], trial is chosen) for trial in _ordered(search) if trial.verdicts),
        *(_blame(trial, numbers[trial.recipe]) for trial in _ordered(search) if trial.blame),
        _lineage(chosen, study) if chosen else "",
    ]
    return "\n".join(part for part in parts if part)


def _ordered(search: Search) -> list[Trial]:
    """The chosen one first, then the front, then the rest, the quicker before the slower."""

    def key(trial: Trial) -> tuple[bool, bool, float]:
        latency = trial.figures.latency_ms if trial.figures else math.inf
        return trial.recipe != search.chosen, trial.recipe not in search.front, latency

    last = {trial.recipe: trial for trial in search.trials}  # of several rungs, the one with the most effort
    return sorted(last.values(), key=key)


def _cards(what: str, figures: Figures, champion: Figures | None = None) -> str:
    size = f"1/{champion.model_bytes / figures.model_bytes:.1f} of float" if champion else "size"
    latency = f"{figures.latency_ratio:.2f} of float" if champion else "latency"
    cards = [
        (f"{figures.accuracy:.2%}", f"accuracy, {what}"),
        (_size(figures.model_bytes), size),
        (_ms(figures.latency_ms), latency),
    ]
    inner = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in cards
    )
    return f'<div class="cards">{inner}</div>'


def _trial(trial: Trial, search: Search, number: int) -> tuple[str, list[Cell]]:
    """The row's class, and its cells."""
    figures, overall = trial.figures, next((v for v in trial.verdicts if v.gate == "accuracy"), None)
    measured = ["", "", "", ""]
    if figures:
        ratio = f"{figures.latency_ratio:.2f}"
        measured = [f"{figures.accuracy:.2%}", _size(figures.model_bytes), _ms(figures.latency_ms), ratio]
    drop = f"{overall.value:+.2f}, {overall.bound:+.2f}" if overall else ""
    cells = [(str(number), True), (f"<code>{escape(trial.recipe)}</code>", False), (measured[0], True), (drop, True)]
    cells += [(value, True) for value in (*measured[1:], str(trial.rung))]
    return "chosen" if trial.recipe == search.chosen else "", [*cells, (_standing(trial, search), False)]


def _standing(trial: Trial, search: Search) -> str:
    failed = [verdict for verdict in trial.verdicts if not verdict.passed]
    if trial.error:
        return f'<span class="bad">{escape(trial.error)}</span>'
    if failed:
        return f'<span class="bad">fails {escape(", ".join(_name(verdict) for verdict in failed))}</span>'
    if trial.recipe == search.chosen:
        return '<span class="good">chosen</span>'
    return "on the front" if trial.recipe in search.front else '<span class="soft">not on the front</span>'


def _gates(trial: Trial, number: int, chosen: bool) -> str:
    rows = [("", [(escape(_name(v)), False), (_mark(v), False), (escape(v.reason), False)]) for v in trial.verdicts]
    failed = sum(not verdict.passed for verdict in trial.verdicts)
    said = (
        f'<span class="bad">{failed} failed</span>' if failed else f'<span class="good">all {len(rows)} passed</span>'
    )
    summary = f"<summary>Gates of {number}, <code>{escape(trial.recipe)}</code>: {said}</summary>"
    return f"<details{' open' if chosen else ''}>{summary}\n{_table(('gate', '', 'figures'), rows)}</details>"


def _devices(search: Search, numbers: dict[str, int]) -> str:
    """What devices measured, each provider a row."""
    rows = [
        ("chosen" if trial.recipe == search.chosen else "",
         [(str(numbers[trial.recipe]), True), (escape(found.device), False), (escape(found.profile), False),
          (escape(found.provider), False), *_on_device(found)])
        for trial in _ordered(search)
        for found in trial.devices
    ]  # fmt: skip
    if not rows:
        return ""
    columns = ("#", "device", "profile", "provider", "latency", "loaded in", "memory", "")
    return f"<h3>On devices</h3>\n{_table(columns, rows)}"


def _on_device(found: OnDevice) -> list[Cell]:
    if found.fault:
        return [("", True), ("", True), ("", True), (f'<span class="bad">{escape(found.fault)}</span>', False)]
    right = f'<span class="good">right within {found.max_diff:.1e}</span>'
    return [(_ms(found.latency_ms), True), (_ms(found.load_ms), True), (f"{found.memory_mb:.1f} MB", True),
            (right, False)]  # fmt: skip


def _mark(verdict: Verdict) -> str:
    return '<span class="good">pass</span>' if verdict.passed else '<span class="bad">fail</span>'


def _name(verdict: Verdict) -> str:
    return f"{verdict.gate} {verdict.subject}".strip()


def _blame(trial: Trial, number: int) -> str:
    worst = max(blame.harm for blame in trial.blame) or 1.0

    def cells(harm: float) -> str:
        return f'<div class="bar" style="width:{harm / worst * 100:.1f}%"></div>'

    rows = [
        ("", [(f"<code>{escape(blame.operator)}</code>", False), (escape(blame.type), False),
              (f"{blame.harm:.2e}", True), (cells(blame.harm), False)])
        for blame in trial.blame[:BLAMED]
    ]  # fmt: skip
    said = "Change of the scores (root mean square) if this operator alone is treated."
    left = f" {len(trial.blame) - BLAMED} more do less." if len(trial.blame) > BLAMED else ""
    head = f'<h3>{number}: sensitivity of its operators</h3>\n<p class="soft">{said}{left}</p>\n'
    return head + _table(("operator", "type", "change", ""), rows, "blame")


def _lineage(trial: Trial, study: Study) -> str:
    rows = [
        ("", [(f"<code>{escape(made.step)}</code>", False), (escape(made.form), False), (_size(made.model_bytes), True),
              (f"{made.seconds:.1f} s", True), (f"<code>{escape(made.sha256[:16])}</code>", False)])
        for made in trial.lineage
    ]  # fmt: skip
    head = (
        f'<h3>Lineage</h3>\n<p class="soft">from {escape(study.workload)}\'s float model, dataset {study.dataset}</p>\n'
    )
    return head + _table(("step", "form", "size", "took", "sha256"), rows)


def _table(columns: Sequence[str], rows: Iterable[tuple[str, list[Cell]]], kind: str = "") -> str:
    numeric = {
        "#",
        "accuracy",
        "drop, at most",
        "size",
        "latency",
        "of float",
        "rung",
        "change",
        "took",
        "loaded in",
        "memory",
    }
    head = "".join(f"<th{_class('number' if name in numeric else '')}>{name}</th>" for name in columns)
    lines = [
        f"<tr{_class(kind)}>"
        + "".join(f"<td{_class('number' if number else '')}>{html}</td>" for html, number in cells)
        + "</tr>"
        for kind, cells in rows
    ]
    return (
        f'<div class="wide"><table{_class(kind)}><thead><tr>{head}</tr></thead><tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _plot(champion: Figures, search: Search, numbers: dict[str, int]) -> str:
    """Accuracy over latency as a share of the float model's, which was timed in turns with each candidate."""
    near = [
        (trial, trial.figures)
        for trial in _ordered(search)
        if trial.figures and trial.figures.accuracy > champion.accuracy - SHOWN
    ]
    if not near:
        return ""
    every = [champion, *(figures for _, figures in near)]
    x, x_ticks = _scale([figures.latency_ratio for figures in every], LEFT, WIDTH - RIGHT)
    y, y_ticks = _scale([figures.accuracy for figures in every], HEIGHT - BOTTOM, TOP)
    largest = max(figures.model_bytes for figures in every)
    best = _quickest([(trial, figures) for trial, figures in near if trial.recipe in search.front])
    named = [(trial, figures) for trial, figures in near if trial in best or trial.recipe == search.chosen]

    def dot(figures: Figures, kind: str, title: str) -> str:
        radius = RADII[0] + (RADII[1] - RADII[0]) * math.sqrt(figures.model_bytes / largest)
        place = f'cx="{x(figures.latency_ratio):.1f}" cy="{y(figures.accuracy):.1f}" r="{radius:.1f}"'
        said = f"{title}: {figures.accuracy:.2%}, {_size(figures.model_bytes)}, {_ms(figures.latency_ms)}"
        return f'<circle class="{kind}" {place}><title>{escape(said)}</title></circle>'

    def kind(trial: Trial) -> str:
        front = " best" if trial.recipe in search.front else ""
        return f"dot{front}{' pick' if trial.recipe == search.chosen else ''}"

    line = " ".join(
        f"{x(f.latency_ratio):.1f},{y(f.accuracy):.1f}"
        for trial, f in sorted(near, key=lambda one: one[1].latency_ratio)
        if trial in best
    )
    parts = [
        *(f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
          f'<text x="{x(t):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{t:g}</text>' for t in x_ticks),
        *(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
          f'<text x="{LEFT - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{t:.1%}</text>' for t in y_ticks),
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">latency, of the float model\'s</text>',
        f'<polyline class="front" points="{line}"/>',
        dot(champion, "float", "the float model"),
        *(dot(figures, kind(trial), f"{numbers[trial.recipe]}: {trial.recipe}") for trial, figures in near[::-1]),
        *(f'<text class="name" x="{x(f.latency_ratio):.1f}" y="{y(f.accuracy) - 16:.1f}" text-anchor="middle">'
          f"{numbers[trial.recipe]}</text>" for trial, f in named),
    ]  # fmt: skip
    label = "Accuracy over latency of the candidates; the dashed line is the front, the ring the float model"
    left_out = sum(trial.figures is not None for trial in _ordered(search)) - len(near)
    more = f" {left_out} that lose more than {SHOWN * 100:g} points are in the table only." if left_out else ""
    inner = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">\n{inner}\n</svg>\n'
        f'<p class="soft">{label}. The area of a dot is the size of the file; numbers are those of the table.{more}</p>'
    )


def _quickest(front: list[tuple[Trial, Figures]]) -> list[Trial]:
    """Those of the front (of accuracy, size and latency) that nothing as quick is more accurate than."""
    found, most = list[Trial](), -math.inf
    for trial, figures in sorted(front, key=lambda one: (one[1].latency_ratio, -one[1].accuracy)):
        if figures.accuracy > most:
            most = figures.accuracy
            found.append(trial)
    return found


def _scale(values: Sequence[float], start: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """From values to pixels, with some room, and round ticks in between."""
    room = max((max(values) - min(values)) * 0.15, 0.002)
    low, high = min(values) - room, max(values) + room
    step = _round_step((high - low) / 6)
    ticks = [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return lambda value: start + (value - low) / (high - low) * (end - start), ticks


def _round_step(step: float) -> float:
    """1, 2 or 5 times a power of ten, at least ``step``."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= step * 0.999)


def _size(count: int) -> str:
    return f"{count / 1024:.0f} KB" if count >= 10 << 10 else f"{count / 1024:.1f} KB"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds * 1e3:.0f} µs" if milliseconds < 1 else f"{milliseconds:.1f} ms"
