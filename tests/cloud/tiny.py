"""A workload as a user writes one, for the tests: is the left or the right half of a picture the brighter one?"""

import time
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from skerry_cloud.workloads import Examples, Workload
from skerry_shared.release import ANY, TensorSpec


class Tiny(Workload):
    name = "tiny"
    owner = "tests"
    labels: ClassVar[tuple[str, ...]] = ("left", "right")
    input = TensorSpec("picture", "uint8", (ANY, 4, 4))
    max_drop = 8.0
    epochs = 3
    batch_size = 16
    size: ClassVar[int] = 400

    def examples(self) -> Examples:
        random = np.random.default_rng(7)
        pictures = random.integers(0, 160, (self.size, 4, 4), dtype=np.uint8)
        labels = random.integers(0, 2, self.size)
        pictures[labels == 0, :, :2] += 90
        pictures[labels == 1, :, 2:] += 90
        return Examples(pictures, labels)

    def model(self) -> nn.Module:
        return self.student(1.0)

    def student(self, width: float) -> nn.Module:
        planes = round(4 * width)
        convolution = nn.Conv2d(1, planes, 3)
        return nn.Sequential(nn.Unflatten(1, (1, 4)), convolution, nn.ReLU(), nn.Flatten(), nn.Linear(4 * planes, 2))

    def prepare(self, inputs: Tensor) -> Tensor:
        return inputs.float() / 255 - 0.5


class Taught(Tiny):
    """Its teacher is right, and sure of all but every fourth."""

    flaw: ClassVar[int] = 0  # how many answers are wrong

    def teacher(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        places, left = np.arange(len(inputs)), inputs[:, :, :2].sum((1, 2), np.int64)
        answer = (inputs[:, :, 2:].sum((1, 2), np.int64) > left) ^ (places < self.flaw)
        sure = np.where(places % 4, 0.99, 0.6)
        return np.where(answer, [1 - sure, sure], [sure, 1 - sure]).T.astype(np.float32)


class Misled(Taught):
    flaw = 10


class Logits(Tiny):
    def teacher(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        return np.full((len(inputs), 2), 7, np.float32)


class Slow(Tiny):
    """Takes its time, so that it can be killed at a step."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        time.sleep(0.02)
        return super().loss(logits, labels)


class Childless(Tiny):
    def student(self, width: float) -> None:  # type: ignore[override]
        return None

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


class Unfinished(Workload):
    """Lacks its methods."""

    name = "unfinished"
    owner = "tests"
    labels = ("left", "right")
    input = TensorSpec("picture", "uint8", (ANY, 4, 4))


class Ownerless(Tiny):
    owner = ""


class Rigid(Tiny):
    input = TensorSpec("picture", "uint8", (1, 4, 4))


class Single(Tiny):
    labels = ("left",)


NOT_A_CLASS = 1


class Brought(Workload):
    """Nobody here can train it: its models come as files."""

    name = "brought"
    owner = "tests"
    labels = ("left", "right")
    input = TensorSpec("picture", "float32", (ANY, 4, 4))

    def examples(self) -> Examples:
        examples = Tiny().examples()
        return Examples(examples.inputs.astype(np.float32) / 255, examples.labels)


class Unwatched(Brought):
    monitors = ()
