"""Port: what runs a model on a device. Adapters register under the entry-point group ``skerry.runtimes``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[np.generic]]


class Model(Protocol):
    """A loaded model. ``run`` may be called from several threads at once and never touches the network."""

    def run(self, inputs: Tensors) -> Tensors:
        """All outputs by name. Raises ModelError if the model cannot answer these inputs."""
        ...


class Runtime(Protocol):
    """A way to load models."""

    def load(self, model: Path, threads: int) -> Model:
        """Raises ModelError if the file cannot be loaded."""
        ...
