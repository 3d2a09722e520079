"""Clothes on 28 × 28 grey pictures: Fashion-MNIST, as the Debian package ``dataset-fashion-mnist`` installs it.

The 60,000 training pictures are the data to learn from. The 10,000 test pictures never enter a dataset version: they
are what devices see in the demo (``field``).
"""

import gzip
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from skerry_cloud.examples import Examples
from skerry_cloud.workloads import vision
from skerry_cloud.workloads.workload import Workload
from skerry_shared.errors import NotFoundError
from skerry_shared.release import ANY, TensorSpec

DARK = 50  # of 255, mean of a picture: about a third of them


class Fashion(Workload):
    """Ten kinds of clothes."""

    name = "fashion"
    owner = "vision@skerry.example"
    labels = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
    input = TensorSpec("picture", "uint8", (ANY, 28, 28))
    monitors = vision.MONITORS
    max_loss = 2.0
    epochs = 4
    views = 2
    train_size = 24_000  # half a minute on one core

    folder: ClassVar[Path] = Path("/usr/share/datasets/fashion-mnist")

    def examples(self) -> Examples:
        """The 60,000 training pictures."""
        return self._read("train")

    def field(self) -> Examples:
        """The 10,000 pictures that no dataset version holds."""
        return self._read("t10k")

    def model(self) -> nn.Module:
        """73,000 parameters."""
        return self.student(1.0)

    def student(self, width: float) -> nn.Module:
        """The same, narrower."""
        return vision.ResidualCnn(len(self.labels), vision.scaled((16, 32, 64), width))

    def prepare(self, inputs: Tensor) -> Tensor:
        """To mean 0 and standard deviation 1 over the training pictures."""
        return (vision.grey(inputs) - 0.286) / 0.353

    def view(self, inputs: Tensor, number: int) -> Tensor:
        """Mirrored, or not."""
        return inputs.flip(2) if number else inputs

    def watch(self, inputs: Tensor) -> Tensor:
        """Brightness, contrast, sharpness, noise."""
        return vision.watch(vision.grey(inputs))

    def slices(self, examples: Examples) -> dict[str, NDArray[np.bool_]]:
        """What is easily mistaken for each other, and dark clothes."""
        tops = [self.labels.index(label) for label in ("t-shirt", "pullover", "dress", "coat", "shirt")]
        return {"tops": np.isin(examples.labels, tops), "dark": examples.inputs.mean((1, 2)) < DARK}

    def corruptions(self, inputs: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
        """Poor light, noise, blur."""
        return vision.spoiled(inputs)

    def _read(self, part: str) -> Examples:
        pictures = self._content(f"{part}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
        return Examples(pictures, self._content(f"{part}-labels-idx1-ubyte.gz", header=8).astype(np.int64))

    def _content(self, file: str, header: int) -> NDArray[Any]:
        """The bytes of an IDX file behind its header (magic number and sizes, 4 bytes each)."""
        try:
            return np.frombuffer(gzip.decompress((self.folder / file).read_bytes()), np.uint8, offset=header)
        except FileNotFoundError as error:
            raise NotFoundError(
                f"fashion: no file {error.filename}; install it: sudo apt-get install dataset-fashion-mnist"
            ) from None
