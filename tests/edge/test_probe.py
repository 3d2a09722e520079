"""The golden check and the live comparison: what each lets pass and what not."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_edge.config import Health
from skerry_edge.update.probe import probe
from skerry_edge.update.prove import REMEMBERED, Proof, judge, top_label
from skerry_shared import bundle
from skerry_shared.bundle import Bundle, Golden
from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.release import Manifest
from skerry_shared.states import UpdateEvent

pytestmark = pytest.mark.arm64


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


def proof_of(agreements: list[bool]) -> Proof:
    proof = Proof()
    for number, agrees in enumerate(agreements):
        proof.add(str(number), "a", "a" if agrees else "b")
    return proof


@given(
    agreements=st.lists(st.booleans(), max_size=40),
    answers=st.integers(1, 30),
    least=st.floats(0, 1),
    left=st.booleans(),
)
def test_without_labels_a_verdict_is_the_share_and_early_only_where_nothing_could_change_it(
    agreements: list[bool], answers: int, least: float, left: bool
) -> None:
    bounds = Health(proving_answers=answers, min_agreement=least, labels_s=0)
    verdict = judge(proof_of(agreements), bounds, 1.0, 1.0 if left else 0.0)
    wanted = least * max(answers, len(agreements))
    best = sum(agreements) + max(answers - len(agreements), 0)
    if best < wanted:
        assert verdict and verdict.event is UpdateEvent.DISPROVEN
    elif len(agreements) >= answers or not left:
        assert verdict and verdict.event is UpdateEvent.PROVEN
    else:
        assert verdict is None


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("ab"), st.sampled_from("ab")), min_size=10), st.randoms()
)
def test_enough_labels_decide_whatever_the_agreement_and_the_order(
    answers: list[tuple[str, str, str]], shuffle: random.Random
) -> None:
    news: list[Callable[[], None]] = []
    proof = Proof()
    for number, (candidate, predecessor, truth) in enumerate(answers):
        news.append(partial(proof.add, str(number), candidate, predecessor))
        news.append(partial(proof.truth, str(number), truth))
    shuffle.shuffle(news)
    for step in news:
        step()
    right, before = (sum(answer[i] == answer[2] for answer in answers) for i in (0, 1))
    assert (proof.labelled, proof.right, proof.right_before) == (len(answers), right, before)
    verdict = judge(proof, Health(proving_answers=10, min_agreement=1.0), 1.0, 1.0)
    lost = (before - right) / len(answers) > 0.1
    assert verdict and verdict.event is (UpdateEvent.DISPROVEN if lost else UpdateEvent.PROVEN)


def test_too_little_agreement_waits_for_labels_but_not_for_ever() -> None:
    bounds, proof = Health(proving_answers=10, min_agreement=0.5, labels_s=60), proof_of([False] * 20)
    alone = judge(proof, bounds, 1.0, 100.0)
    assert alone and alone.event is UpdateEvent.DISPROVEN  # no labels come here: nothing to wait for
    proof.truth("of another answer", "a")
    assert judge(proof, bounds, 59.0, 100.0) is None
    late = judge(proof, bounds, 60.0, 100.0)
    assert late and late.event is UpdateEvent.DISPROVEN and "no labels" in late.reason


def test_what_waits_for_its_other_half_is_bounded() -> None:
    proof = Proof()
    for number in range(REMEMBERED + 10):
        proof.truth(f"never answered {number}", "a")
    proof.add("1", "a", "a")
    proof.truth("1", "a")
    assert proof.labelled == 1 and len(proof._truths) <= REMEMBERED


@pytest.mark.parametrize(
    ("scores", "label"),
    [([0.1, 0.9], "b"), ([0.9, 0.1], "a"), ([np.nan, 0.1], None), ([np.inf, 0.1], None), ([0.1, 0.2, 0.7], None)],
)
def test_the_top_label(scores: list[float], label: str | None) -> None:
    assert top_label(np.array(scores, np.float32), ("a", "b")) == label
