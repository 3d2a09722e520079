"""Pseudo-labels: what a workload's teacher says of samples whose truth nobody told (Lee, Pseudo-Label, 2013).

A teacher is believed only where people's labels bear it out: of the labelled samples of which it is as sure, it must be
right about at least the share that it is sure of.
"""

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.datasets import UNTOLD
from skerry_cloud.workloads import Examples, Workload
from skerry_shared.errors import ConfigError

PROOF = 20  # labelled samples that a teacher must be sure of, to be believed


def teach(workload: Workload, examples: Examples, sure: float) -> tuple[Examples, NDArray[np.int64], str]:
    """The examples that have a label or get one, their places among those given, and a note on what was done.

    ``sure``: probability of the teacher's first choice, at least. Raises ConfigError if the workload has no teacher or
    one whose answers are no probabilities.
    """
    untold = examples.labels == UNTOLD
    if not untold.any():
        return examples, np.arange(len(examples)), f"{len(examples)} examples"
    scores = _answers(workload, examples.inputs)
    told, is_sure = scores.argmax(axis=1), scores.max(axis=1) >= sure
    right = (told == examples.labels)[is_sure & ~untold]
    believed = len(right) >= PROOF and right.mean() >= sure
    places = np.flatnonzero(~untold | (is_sure & believed))
    labels = np.where(untold, told, examples.labels).astype(np.int64)
    note = f"teacher right on {right.sum()} of {len(right)}, {'labelled' if believed else 'so it labels none of'}"
    return Examples(examples.inputs, labels).take(places), places, f"{note} {(is_sure & untold).sum()} others"


def _answers(workload: Workload, inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    scores = workload.teacher(inputs)
    if scores is None:
        raise ConfigError(f"workload {workload.name}: has no teacher(); write one, or set retrain.pseudo_labels = 0")
    if scores.shape != (len(inputs), len(workload.labels)) or not ((scores >= 0) & (scores <= 1)).all():
        raise ConfigError(
            f"workload {workload.name}: teacher() must give probabilities, {len(inputs)} × {len(workload.labels)}; "
            f"got {scores.shape}"
        )
    return scores
