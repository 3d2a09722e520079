import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from skerry_cloud.evaluate.compare import Gate, compare
from skerry_cloud.paired import Answered, answered, loss_bound, p_better
from skerry_shared.errors import InputError

GATE = Gate(max_loss=1.0)


@given(st.integers(0, 400), st.integers(0, 400))
def test_p_better_is_the_exact_sign_test(won: int, lost: int) -> None:
    expected = binomtest(won, won + lost, alternative="greater").pvalue if won + lost else 1.0
    assert p_better(won, lost) == pytest.approx(expected, rel=1e-9)


def test_the_loss_bound_covers_the_true_loss_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    size, won, lost = 500, 0.03, 0.05
    trials = random.multinomial(size, [won, lost, 1 - won - lost], 4000)
    covered = np.mean([loss_bound(w, x, size, 0.05) >= lost - won for w, x, _ in trials])
    assert 0.94 < covered < 0.97  # of 4000 trials, so 0.95 is known to 0.007


@given(st.integers(0, 50), st.integers(0, 50))
def test_more_confidence_is_a_wider_bound(won: int, lost: int) -> None:
    assert loss_bound(won, lost, 100, 0.01) > loss_bound(won, lost, 100, 0.1) > (lost - won) / 102


def test_a_candidate_that_gains_and_holds_passes() -> None:
    verdict = compare(_answers(200, won=60, lost=5), _answers(6000, won=50, lost=60), GATE)
    assert verdict.passed
    assert verdict.figures.candidate_recent - verdict.figures.champion_recent == pytest.approx(55 / 200)
    assert verdict.figures.loss == pytest.approx(10 / 60)
    assert verdict.figures.loss < verdict.figures.loss_bound < 1


def test_a_gain_by_chance_does_not_pass() -> None:
    verdict = compare(_answers(200, won=8, lost=4), _answers(6000, won=0, lost=0), GATE)
    assert not verdict.passed
    assert "not shown to be better on recent data" in verdict.reason


def test_a_candidate_that_forgets_does_not_pass() -> None:
    verdict = compare(_answers(200, won=60, lost=5), _answers(6000, won=50, lost=110), GATE)
    assert not verdict.passed
    assert "may lose more than 1 points on old data" in verdict.reason
    assert verdict.figures.loss == pytest.approx(1)


def test_the_same_model_is_no_better() -> None:
    same = _answers(200, won=0, lost=0)
    assert not compare(same, same, GATE).passed


def test_few_old_examples_prove_nothing() -> None:
    assert not compare(_answers(200, won=60, lost=5), _answers(20, won=0, lost=0), GATE).passed


def test_scores_become_right_and_wrong_answers() -> None:
    labels = np.array([0, 1, 1])
    champion = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]], np.float32)
    candidate = np.array([[0.1, 0.9], [0.3, 0.7], [0.2, 0.8]], np.float32)
    both = answered(labels, champion, candidate)
    assert (both.won, both.lost) == (1, 1)


def test_nothing_held_out_is_an_error_and_no_verdict() -> None:
    none = np.zeros((0, 2), np.float32)
    with pytest.raises(InputError, match="no held-out examples"):
        answered(np.zeros(0, np.int64), none, none)


def _answers(size: int, won: int, lost: int) -> Answered:
    """Of the examples, ``won`` only the candidate has right, ``lost`` only the champion, and the others both."""
    return Answered(_mask(size, slice(0, won)), _mask(size, slice(won, won + lost)))


def _mask(size: int, wrong: slice) -> NDArray[np.bool_]:
    right = np.ones(size, bool)
    right[wrong] = False
    return right
