"""Passes that train: a student learns to answer as the champion does, which tells more of an example than its label.

Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from skerry_cloud.passes import Form, Material
from skerry_cloud.train import fit, networks
from skerry_shared.errors import ModelError

TEMPERATURE = 4.0  # softens the answers, so that what the teacher thinks of the wrong labels is seen
TRUST = 0.9  # weight of the teacher's word against the label's


@dataclass(frozen=True)
class Distil:
    """A fresh student, ``width`` times as wide as the workload's network, learns from the champion."""

    width: float
    epochs: int

    name: ClassVar[str] = "distil"
    takes: ClassVar[Form] = "onnx"
    gives: ClassVar[Form] = "network"

    def __post_init__(self) -> None:
        if self.width <= 0 or self.epochs < 1:
            raise ValueError("needs width > 0 and epochs >= 1")

    def __call__(self, source: Path, target: Path, material: Material) -> None:  # noqa: ARG002 - the teacher is known
        """Train from scratch."""
        fit.start(material.seed, material.threads)
        student = material.workload.student(self.width)
        if student is None:
            raise ModelError(f"distil: {material.workload.name} builds no student; its class may define one")
        learn(student, material, self.epochs, material.workload.learning_rate)
        networks.write(student, target)


@dataclass(frozen=True)
class Tune:
    """The network goes on learning from the champion, for instance after it was pruned."""

    epochs: int
    rate: float = 0.5  # of the workload's learning rate: it has less to learn than a fresh one

    name: ClassVar[str] = "tune"
    takes: ClassVar[Form] = "network"
    gives: ClassVar[Form] = "network"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.rate <= 0:
            raise ValueError("needs epochs >= 1 and rate > 0")

    def __call__(self, source: Path, target: Path, material: Material) -> None:
        """Train on from what is there."""
        fit.start(material.seed, material.threads)
        network = networks.read(source, material.workload)
        learn(network, material, self.epochs, material.workload.learning_rate * self.rate)
        networks.write(network, target)


def learn(student: nn.Module, material: Material, epochs: int, learning_rate: float) -> None:
    """Train the student in place on the champion's answers to the training rows."""
    workload, train = material.workload, material.train
    size = min(workload.train_size or len(train), len(train))
    recipe = fit.Recipe(epochs, size, workload.batch_size, learning_rate, material.seed, material.threads)
    taught = [torch.from_numpy(material.teacher(view)) for view in range(workload.views)]
    labels = torch.tensor(train.labels)

    def loss(logits: Tensor, rows: Tensor, view: int) -> Tensor:
        hard = workload.loss(logits, labels[rows])
        return TRUST * divergence(logits, taught[view][rows]) + (1 - TRUST) * hard

    def step(done: int, total: int, value: float) -> None:
        material.say(done, total, f"loss {value:.3f}")

    fit.fit(student, workload, train, material.recent, recipe, step, loss)


def divergence(logits: Tensor, scores: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's from the teacher's softened answers, mean over the batch.

    ``logits`` of the student and ``scores`` (probabilities) of the teacher: float32, batch × labels. Times the squared
    temperature, so that its gradients are as large as those of the labels' loss.
    """
    soft = torch.softmax(scores.clamp_min(1e-7).log() / TEMPERATURE, dim=1)
    own = torch.log_softmax(logits / TEMPERATURE, dim=1)
    return nn.functional.kl_div(own, soft, reduction="batchmean") * TEMPERATURE**2
