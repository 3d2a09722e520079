"""Quantisation-aware training: the network learns with the rounding that integers will do to it.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018.
Weights are rounded per output channel, so that a normalisation folded into them later changes the scale and not the
grid; activations per tensor, on the way into each layer. The gradient passes through both as if there were none.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from skerry_cloud.passes import Form, Material
from skerry_cloud.train import fit, networks
from skerry_cloud.train.distil import learn

LARGEST = {7: 64, 8: 127}  # integer of a weight, by bits
LEVELS = 255  # steps of an activation
MEMORY = 0.99  # share of a range that the next batch leaves as it is
TINY = 1e-12


@dataclass(frozen=True)
class Qat:
    """The network goes on learning from the champion with ``bits`` for each weight: 7 for x86 without VNNI, else 8.

    What comes out is a float network whose weights lie on the integers' grid; ``int8`` makes integers of it.
    """

    epochs: int
    bits: int = 8
    rate: float = 0.1  # of the workload's learning rate: it knows all but the rounding

    name: ClassVar[str] = "qat"
    takes: ClassVar[Form] = "network"
    gives: ClassVar[Form] = "network"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.rate <= 0 or self.bits not in LARGEST:
            raise ValueError("needs epochs >= 1, rate > 0, and bits 7 or 8")

    def __call__(self, source: Path, target: Path, material: Material) -> None:
        """Train on from what is there."""
        fit.start(material.seed, material.threads)
        network = networks.read(source, material.workload)
        layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
        hooks = [layer.register_forward_pre_hook(RoundedInputs()) for layer in layers]
        for layer in layers:
            parametrize.register_parametrization(layer, "weight", RoundedWeights(LARGEST[self.bits]))
        learn(network, material, self.epochs, material.workload.learning_rate * self.rate)
        for hook, layer in zip(hooks, layers, strict=True):
            hook.remove()
            parametrize.remove_parametrizations(layer, "weight")
        networks.write(network, target)


class RoundedWeights(nn.Module):
    """A parametrisation: each output channel's largest weight is the integer ``largest``, the others are rounded."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self._largest = largest

    def forward(self, weight: Tensor) -> Tensor:
        """The weights as integers will have them; outputs × …"""
        scales = weight.detach().abs().flatten(1).amax(1).clamp_min(TINY) / self._largest
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -self._largest, self._largest)


class RoundedInputs:
    """A hook before a layer: what goes in is rounded to 8 bits of the range that was seen so far."""

    def __init__(self) -> None:
        self._low, self._high = torch.zeros(()), torch.zeros(())

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The layer's inputs as integers will have them; in training the range goes with what comes."""
        value, *rest = inputs
        if layer.training:
            self._see(value.detach())
        scale = (self._high - self._low).clamp_min(TINY) / LEVELS
        zero = torch.round(-self._low / scale).to(torch.int32)
        return (torch.fake_quantize_per_tensor_affine(value, scale, zero, 0, LEVELS), *rest)

    def _see(self, value: Tensor) -> None:
        low, high = value.amin().clamp_max(0), value.amax().clamp_min(0)
        share = MEMORY if self._high > self._low else 0.0
        self._low, self._high = share * self._low + (1 - share) * low, share * self._high + (1 - share) * high
