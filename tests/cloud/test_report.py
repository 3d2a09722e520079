"""The report of a study: whole, valid, self-contained, and safe whatever names it is given."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud.compress.report import render
from skerry_cloud.compress.study import Figures, Goal, Machine, Made, OnDevice, Search, Study, Trial, Verdict
from skerry_cloud.passes import Blame
from skerry_shared.release import Kind

KIND = Kind("onnxruntime", "int8", "aarch64")
VOID = {"meta", "line", "polyline"}


def trial(recipe: str, accuracy: float, size: int, ratio: float, **more: object) -> Trial:
    figures = Figures(accuracy, 0.5, size, 0.1 * ratio, ratio, recipe)
    made = Made(recipe, "onnx", size, "ab" * 32, 1.5)
    return replace(Trial(recipe, KIND, 0, (made,), figures), **more)  # type: ignore[arg-type]


def verdict(passed: bool) -> Verdict:
    return Verdict("slice", "boots", passed, 0.4, 0.9, 1.0, 500, "boots: 0.4 points, at most 0.9")


def found(name: str, latency_ms: float, fault: str = "") -> OnDevice:
    return OnDevice("raspberry-pi-5", f"edge-{name}", "abc", "cpu", fault, 1e-6, latency_ms, 20.0, 4.0)


def study(name: str = "fashion") -> Study:
    trials = (
        trial("slim", 0.93, 400_000, 1.0, verdicts=(verdict(True),), devices=(found(name, 3.1), found(name, 0, name))),
        trial(f"int8 + {name}", 0.929, 100_000, 0.3, verdicts=(verdict(True),), blame=(Blame(name, "Conv", 0.1),)),
        trial("prune + int8", 0.90, 60_000, 0.2, verdicts=(verdict(False),)),
        Trial("distil + int8", KIND, 0, (), None, error=f"no {name} here"),
    )
    search = Search(
        KIND, ("raspberry-pi-5", name), trials, ("slim", trials[1].recipe), trials[1].recipe, f"because {name}"
    )
    goal = Goal(1.0, 5.0, 1 << 20, 2.0, 30.0)
    champion = Figures(0.93, 0.0, 410_000, 0.1, 1.0, "the float model")
    return Study(name, 3, 1.7e9, Machine("A CPU", "x86_64", "onnxruntime 1"), goal, champion, (search,))


class Outline(HTMLParser):
    """Checks that every element is closed in order, and gathers text and references."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.text, self.links, self.tags = list[str](), "", list[str](), list[str]()
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attributes if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_tells_what_was_tried_chosen_and_why() -> None:
    page = Outline(render(study()))
    for words in (
        "fashion: compression", "onnxruntime-int8-aarch64", "raspberry-pi-5", "because fashion", "92.90%", "98 KB",
        "30 µs", "fails slice boots", "no fashion here", "A CPU", "abababababababab", "at most 1024 KB",
        "30 minutes to search", "On devices", "edge-fashion", "3.1 ms", "right within 1.0e-06",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.tags.count("circle") == 4  # the float model, and what was measured


def test_it_needs_nothing_else() -> None:
    page = render(study())
    assert Outline(page).links == []
    assert not re.search(r"https?:|url\(|@import|<script", page)
    assert "prefers-color-scheme: dark" in page


@given(st.text(min_size=1))
def test_names_are_escaped_whatever_they_are(name: str) -> None:
    hostile = f'"><script>alert(1)</script>&{name}'
    page = Outline(render(study(hostile)))
    assert "script" not in page.tags


@pytest.mark.parametrize("searches", [(), (Search(KIND, ("a",), (), (), "", "nothing could be made"),)])
def test_where_there_is_nothing_it_says_so(searches: tuple[Search, ...]) -> None:
    page = Outline(render(replace(study(), searches=searches)))
    assert "circle" not in page.tags
    assert not searches or "nothing could be made" in page.text
