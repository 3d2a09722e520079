"""Networks as files: a run's weights, or whole modules, because a pass of compression may change the structure.

Whole modules are pickles. Read only what this cloud wrote itself.
"""

import io
import pickle
from pathlib import Path

import torch
from torch import nn

from skerry_cloud.workloads import Workload
from skerry_shared.errors import ModelError
from skerry_shared.files import write_durably


def write(network: nn.Module, path: Path) -> None:
    """Write the whole network durably."""
    buffer = io.BytesIO()
    torch.save(network, buffer)
    write_durably(path, buffer.getvalue())


def read(path: Path, workload: Workload) -> nn.Module:
    """The network that ``write`` wrote, or the workload's own with the weights in this file. Raises ModelError."""
    try:
        content = torch.load(path, weights_only=False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path.name}: no network: {error}") from None
    return content if isinstance(content, nn.Module) else trained(path, workload)


def trained(path: Path, workload: Workload) -> nn.Module:
    """The workload's network with the weights in this file. Raises ModelError if they are not its own."""
    network = workload.model()
    try:
        network.load_state_dict(torch.load(path, weights_only=True))
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{workload.name}: cannot start from the weights of {path.parent}: {error}") from None
    return network
