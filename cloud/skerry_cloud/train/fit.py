"""The training loop, and which examples it sees when.

One seed decides everything: the first weights, the order of the examples, and with them the result, bit for bit on the
same machine and number of threads. A retraining starts warm, from its parent's weights, and mixes what is recent with a
replay of what the parent learned from, so that the new is learned without forgetting the old.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skerry_cloud.train.kept import Kept
from skerry_cloud.workloads import Examples, Workload

RECENT_SHARE = 0.5  # of a retraining's examples; repeated as often as it takes
WEIGHT_DECAY = 1e-4

Step = Callable[[int, int, float], None]  # done steps, all steps, loss
Loss = Callable[[Tensor, Tensor, int], Tensor]  # of logits (batch × labels), their rows' places and view: a scalar


@dataclass(frozen=True)
class Recipe:
    """How to train. ``epoch_size`` is in examples; ``learning_rate`` is the peak of the one-cycle schedule."""

    epochs: int
    epoch_size: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    threads: int = 1


def start(seed: int, threads: int) -> None:
    """Make this process deterministic. Call it before the network is made."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)


def fit(
    network: nn.Module,
    workload: Workload,
    examples: Examples,
    recent: NDArray[np.bool_],
    recipe: Recipe,
    step: Step,
    loss: Loss | None = None,
    file: Path | None = None,
) -> None:
    """Train the network in place. ``recent`` marks what a retraining is for; ``step`` hears of each batch.

    ``loss`` is the workload's, on the examples' labels, where nothing else is given. In ``file`` the state is kept
    after each epoch; where it holds one of the same recipe, training goes on from there, to the very same end.
    """
    inputs, loss = torch.tensor(examples.inputs), loss or _labels_loss(workload, examples)
    epochs = [_batches(rows, recipe.batch_size) for rows in schedule(recent, recipe)]
    batches = list(chain.from_iterable(epochs))
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=len(batches))
    network.train()
    views = np.random.default_rng(recipe.seed).integers(workload.views, size=len(batches)).tolist()
    kept = Kept(file, asdict(recipe), network=network, optimiser=optimiser, rate=rate) if file else None
    before = kept.restore() if kept else 0
    for done, (rows, view) in enumerate(zip(batches[before:], views[before:], strict=True), start=before + 1):
        value = loss(network(workload.takes(workload.view(inputs[rows], view))), rows, view)
        optimiser.zero_grad()
        torch.autograd.backward(value)
        optimiser.step()
        rate.step()
        if kept and done % len(epochs[0]) == 0:
            kept.keep(done)
        step(done, len(batches), value.item())
    network.eval()


def _labels_loss(workload: Workload, examples: Examples) -> Loss:
    labels = torch.tensor(examples.labels)
    return lambda logits, rows, _: workload.loss(logits, labels[rows])


def schedule(recent: NDArray[np.bool_], recipe: Recipe) -> list[NDArray[np.int64]]:
    """Which rows each epoch takes, in order: all alike, or the recent ones as ``RECENT_SHARE`` of each epoch."""
    random = np.random.default_rng(recipe.seed)
    new, old = np.flatnonzero(recent), np.flatnonzero(~recent)
    share = RECENT_SHARE * bool(len(new)) if len(old) else 1.0
    fresh = round(recipe.epoch_size * share)
    take_new = _endless(new, random, fresh, recipe.epochs)
    take_old = _endless(old, random, recipe.epoch_size - fresh, recipe.epochs)
    return [random.permutation(np.concatenate(parts)) for parts in zip(take_new, take_old, strict=True)]


def _batches(rows: NDArray[np.int64], size: int) -> list[Tensor]:
    """Batches of equal size; a small rest is left out, because it would make the batch statistics jump."""
    size = min(size, len(rows))
    return [torch.from_numpy(rows[start : start + size]) for start in range(0, len(rows) - size + 1, size)]


def _endless(rows: NDArray[np.int64], random: np.random.Generator, size: int, epochs: int) -> NDArray[np.int64]:
    """epochs × size of the rows, no row once more than another one before all had their turn."""
    rounds = -(-size * epochs // max(len(rows), 1))
    shuffled = [random.permutation(rows) for _ in range(rounds)]
    return np.concatenate([np.empty(0, np.int64), *shuffled])[: size * epochs].reshape(epochs, size)


def answer(
    network: nn.Module, workload: Workload, inputs: NDArray[np.generic], batch: int = 256
) -> NDArray[np.float32]:
    """The network's probabilities: float32, n × labels."""
    with torch.inference_mode():
        parts = [_scores(network, workload, part) for part in torch.split(torch.tensor(inputs), batch)]
    scores: NDArray[np.float32] = torch.cat(parts).numpy()
    return scores


def _scores(network: nn.Module, workload: Workload, inputs: Tensor) -> Tensor:
    return torch.softmax(network(workload.takes(inputs)), dim=1)
