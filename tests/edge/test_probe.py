"""The golden check and the live comparison: what each lets pass and what not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_edge.update.probe import probe
from skerry_edge.update.prove import Proof, judge, top_label
from skerry_shared import bundle
from skerry_shared.bundle import Bundle, Golden
from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.release import Manifest
from skerry_shared.states import UpdateEvent


class Fixed:
    """Always gives the same answer."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def run(self, inputs: Tensors) -> Tensors:
        return self.answers


@pytest.fixture
def tiny(release: Callable[..., tuple[bytes, Manifest]], tmp_path: Path) -> Bundle:
    return bundle.unpack(release()[0], tmp_path / "unpacked")


def answers(tiny: Bundle) -> dict[str, Any]:
    return {name: array.copy() for name, array in tiny.golden.outputs.items()}


def test_the_right_answers_pass(tiny: Bundle) -> None:
    assert probe(Fixed(**answers(tiny)), tiny) == 0


@pytest.mark.parametrize("wrong", [2e-4, np.nan, np.inf])
def test_a_single_wrong_value_does_not(tiny: Bundle, wrong: float) -> None:
    found = answers(tiny)
    found["scores"][3, 1] += np.float32(wrong)
    with pytest.raises(ModelError, match="output 'scores' differs by"):
        probe(Fixed(**found), tiny)


def test_a_difference_within_the_tolerance_passes(tiny: Bundle) -> None:
    found = answers(tiny)
    found["scores"][3, 1] += np.float32(5e-5)
    assert 4e-5 < probe(Fixed(**found), tiny) < 6e-5


def test_a_tolerance_that_is_no_number_allows_nothing(tiny: Bundle) -> None:
    with pytest.raises(ModelError, match="differs"):
        probe(Fixed(**answers(tiny)), replace(tiny, manifest=replace(tiny.manifest, tolerance=np.nan)))


def test_no_golden_values_prove_nothing(tiny: Bundle) -> None:
    with pytest.raises(ModelError, match="nothing shows that it works"):
        probe(Fixed(**answers(tiny)), replace(tiny, golden=Golden({}, {})))


def missing(found: dict[str, Any]) -> None:
    del found["monitors"]


def narrow(found: dict[str, Any]) -> None:
    found["scores"] = found["scores"][:, :2]


def wide(found: dict[str, Any]) -> None:
    found["scores"] = found["scores"].astype(np.float64)


@pytest.mark.parametrize("spoil", [missing, narrow, wide])
def test_outputs_that_the_rest_cannot_rely_on(tiny: Bundle, spoil: Callable[[dict[str, Any]], None]) -> None:
    found = answers(tiny)
    spoil(found)
    with pytest.raises(ModelError, match="expected float32"):
        probe(Fixed(**found), tiny)


@given(
    agreements=st.lists(st.booleans(), max_size=40),
    answers=st.integers(1, 30),
    least=st.floats(0, 1),
    left=st.booleans(),
)
def test_a_verdict_is_the_share_and_early_only_where_nothing_could_change_it(
    agreements: list[bool], answers: int, least: float, left: bool
) -> None:
    proof = Proof()
    for agrees in agreements:
        proof = proof.add(agrees)
    verdict = judge(proof, answers, least, 1.0 if left else 0.0)
    wanted = least * max(answers, len(agreements))
    best = sum(agreements) + max(answers - len(agreements), 0)
    if best < wanted:
        assert verdict and verdict.event is UpdateEvent.DISPROVEN
    elif len(agreements) >= answers or not left:
        assert verdict and verdict.event is UpdateEvent.PROVEN
    else:
        assert verdict is None


@pytest.mark.parametrize(
    ("scores", "label"),
    [([0.1, 0.9], "b"), ([0.9, 0.1], "a"), ([np.nan, 0.1], None), ([np.inf, 0.1], None), ([0.1, 0.2, 0.7], None)],
)
def test_the_top_label(scores: list[float], label: str | None) -> None:
    assert top_label(np.array(scores, np.float32), ("a", "b")) == label
