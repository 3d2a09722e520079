from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud import workloads
from skerry_cloud.train import fit
from skerry_cloud.train.fit import Recipe, schedule

TINY = workloads.load("tiny.py:Tiny", Path(__file__).parent)
RECIPE = Recipe(epochs=3, epoch_size=320, batch_size=16, learning_rate=0.02, seed=3)


@given(st.integers(1, 50), st.integers(0, 20), st.integers(1, 4), st.integers(1, 80))
def test_every_row_has_its_turn_before_any_is_repeated_more(old: int, new: int, epochs: int, size: int) -> None:
    recent = np.arange(old + new) >= old
    epochs_rows = schedule(recent, Recipe(epochs, size, 8, 0.1))
    assert [len(rows) for rows in epochs_rows] == [size] * epochs
    for group in (np.flatnonzero(recent), np.flatnonzero(~recent)):
        taken = Counter(np.concatenate(epochs_rows).tolist())
        turns = [taken[row] for row in group]
        assert not turns or max(turns) - min(turns) <= 1


def test_a_retraining_takes_recent_rows_for_half_of_each_epoch() -> None:
    recent = np.arange(1000) >= 990
    for rows in schedule(recent, Recipe(2, 100, 8, 0.1)):
        assert recent[rows].sum() == 50


def test_training_learns_and_reports_each_batch() -> None:
    network, steps = _trained(RECIPE)
    examples = TINY.examples()
    scores = fit.answer(network, TINY, examples.inputs)
    assert (scores.argmax(axis=1) == examples.labels).mean() > 0.95
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert steps == [(done, 60) for done in range(1, 61)]


def test_the_seed_decides_the_weights() -> None:
    first, again = _trained(RECIPE)[0], _trained(RECIPE)[0]
    other = _trained(Recipe(3, 320, 16, 0.02, seed=4))[0]
    assert _same(first, again)
    assert not _same(first, other)


def test_a_rest_that_fills_no_batch_is_left_out() -> None:
    steps = _trained(Recipe(epochs=1, epoch_size=33, batch_size=16, learning_rate=0.01))[1]
    assert len(steps) == 2
    assert len(_trained(Recipe(epochs=2, epoch_size=5, batch_size=16, learning_rate=0.01))[1]) == 2


def _trained(
    recipe: Recipe, file: Path | None = None, stop_at: int = 0
) -> tuple[torch.nn.Module, list[tuple[int, int]]]:
    fit.start(recipe.seed, threads=1)
    network, examples, steps = TINY.model(), TINY.examples(), list[tuple[int, int]]()

    def step(done: int, total: int, _: float) -> None:
        steps.append((done, total))
        if done == stop_at:
            raise KeyboardInterrupt

    fit.fit(
        network,
        TINY,
        examples,
        np.zeros(len(examples), bool),
        recipe,
        step,
        file=file,
    )
    return network, steps


def test_training_goes_on_from_what_was_kept_unless_it_is_another_recipe(tmp_path: Path) -> None:
    file = tmp_path / "training.pt"
    whole, _ = _trained(RECIPE)
    with pytest.raises(KeyboardInterrupt):
        _trained(RECIPE, file, stop_at=45)
    resumed, steps = _trained(RECIPE, file)
    assert steps == [(done, 60) for done in range(41, 61)] and _same(whole, resumed)
    assert len(_trained(Recipe(3, 320, 16, 0.02, seed=4), file)[1]) == 60


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)
