"""Structured pruning: whole channels go, so that what is left is a smaller dense network, quicker on any runtime.

Which layers share channels (through additions, for instance) torch-pruning finds out: Fang et al., DepGraph, CVPR 2023.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch_pruning
from torch import nn

from skerry_cloud.passes import Form, Material
from skerry_cloud.train import fit, networks
from skerry_shared.errors import ModelError

ALIGNMENT = 4  # channels are kept in multiples: kernels work on several at once


@dataclass(frozen=True)
class Prune:
    """Keep this share of every layer's channels, those of the largest norm. The output layer keeps all its labels."""

    keep: float

    name: ClassVar[str] = "prune"
    takes: ClassVar[Form] = "network"
    gives: ClassVar[Form] = "network"

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise ValueError("needs 0 < keep < 1")

    def __call__(self, source: Path, target: Path, material: Material) -> None:
        """Prune at once; what that costs is to be won back by ``tune``."""
        fit.start(material.seed, material.threads)
        network = networks.read(source, material.workload).eval()
        example = material.workload.takes(torch.tensor(material.train.inputs[:2]))
        shrink(network, example, self.keep)
        networks.write(network, target)


def shrink(network: nn.Module, example: torch.Tensor, keep: float) -> None:
    """Remove channels in place. ``example``: what the network takes. Raises ModelError if it cannot be followed."""
    try:
        torch_pruning.MagnitudePruner(
            network,
            example,
            torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=1 - keep,
            ignored_layers=_outputs(network, example),
            round_to=ALIGNMENT,
        ).step()
        network(example)
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"prune: this network cannot be pruned: {error}") from error


def _outputs(network: nn.Module, example: torch.Tensor) -> list[nn.Module]:
    """The layers that have as many outputs as the network, the last of which makes them."""
    labels = network(example).shape[1]
    weighted = [layer for layer in network.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    return [layer for layer in weighted if layer.weight.shape[0] == labels]
