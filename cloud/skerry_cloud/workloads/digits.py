"""Handwritten digits on 8 × 8 grey pictures, out of scikit-learn: real data wherever pip works. Start yours from here.

A workload says who owns it, what goes in and what comes out, where the data are, and which network learns them.
Every fifth of the 1,797 digits never enters a dataset version: the demo's devices see them.
"""

import numpy as np
from sklearn.datasets import load_digits
from torch import Tensor, nn

from skerry_cloud.examples import Examples
from skerry_cloud.workloads import vision
from skerry_cloud.workloads.workload import Workload
from skerry_shared.release import ANY, TensorSpec

FIELD = 5  # every fifth digit is the field's: in order, the last ones are by other writers than the first


class Digits(Workload):
    """The digits 0 to 9."""

    name = "digits"
    owner = "vision@skerry.example"
    labels = tuple("0123456789")
    input = TensorSpec("picture", "uint8", (ANY, 8, 8))
    monitors = vision.MONITORS
    max_drop = 4.0  # points: of some 140 test digits one is 0.7, and so few cannot show much
    max_loss = 10.0  # a model that loses nothing may seem to lose 2
    epochs = 12
    batch_size = 32

    def examples(self) -> Examples:
        """Raw pictures and their labels, as a device would see them: nothing prepared yet."""
        every = self._all()
        return every.take(np.arange(len(every)) % FIELD > 0)

    def field(self) -> Examples:
        """The digits that no dataset version holds."""
        return self._all().take(slice(0, None, FIELD))

    def model(self) -> nn.Module:
        """Any torch module: what ``prepare`` returns in, logits out."""
        return self.student(1.0)

    def student(self, width: float) -> nn.Module:
        """Worth having, but not needed: a narrower network that compression may teach what the first one knows."""
        return vision.ResidualCnn(len(self.labels), vision.scaled((8, 16, 32), width), pool=False)

    def prepare(self, inputs: Tensor) -> Tensor:
        """Becomes part of the exported model, so that devices pass raw pictures."""
        return (vision.grey(inputs) - 0.3) / 0.37

    def watch(self, inputs: Tensor) -> Tensor:
        """Becomes part of the exported model as well: one number a monitor and picture."""
        return vision.watch(vision.grey(inputs))

    def _all(self) -> Examples:
        digits = load_digits()
        pictures = (digits.images * (255 / 16)).round().astype(np.uint8)  # scikit-learn's have 17 shades
        return Examples(pictures, digits.target.astype(np.int64))
