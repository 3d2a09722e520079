from pathlib import Path

import pytest

from skerry_cloud.compress import picture
from skerry_cloud.compress.study import Figures, Goal, Machine, Search, Study, Trial
from skerry_shared.release import Kind

KIND = Kind("onnxruntime", "int8", "x86_64")


@pytest.fixture
def study() -> Study:
    found = {"big": (0.93, 0.2), "small": (0.92, 0.1), "bad": (0.85, 0.15), "hopeless": (0.1, 0.05)}
    trials = [
        Trial(name, KIND, 0, (), Figures(right, 0.5, 10**5, ms, ms * 2, name)) for name, (right, ms) in found.items()
    ]
    trials.append(Trial("broken", KIND, 0, (), None, error="no such layer"))
    search = Search(KIND, ("generic-x86-64",), tuple(trials), ("big", "small"), "small", "the fastest")
    machine = Machine("a CPU", "x86_64", "onnxruntime 1")
    return Study("w", 1, 0.0, machine, Goal(1.0, 5.0), Figures(0.93, 0.0, 10**6, 0.5, 1.0, "float"), (search,))


def test_the_terminal_shows_what_was_chosen_of_what(study: Study) -> None:
    lines = picture.text(study, study.searches[0]).splitlines()
    drawn = "".join(line.partition("│")[2] for line in lines)
    assert [drawn.count(mark) for mark in (picture.CHOSEN, picture.FRONT, picture.TRIED, picture.FLOAT)] == [1] * 4
    assert "93.00%" in lines[0]
    assert picture.FLOAT in lines[0]
    assert "0.100 ms" in lines[-2] and lines[-2].endswith("0.500 ms")
    assert all(len(line) <= 79 for line in lines)


def test_one_point_alone_can_be_drawn(study: Study) -> None:
    alone = Search(KIND, (), (), (), "", "")
    assert picture.FLOAT in picture.text(study, alone)


def test_the_png_is_one(study: Study, tmp_path: Path) -> None:
    picture.png(study, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
