"""Port: what runs a model on a device. Adapters register under the entry-point group ``skerry.runtimes``.

A runtime runs models on one or more *providers*: the CPU, and accelerators that it knows to use. Which of them work is
not believed but measured; see ``skerry_edge.infer.choose``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

CPU = "cpu"  # the provider that every runtime has

Tensors = Mapping[str, NDArray[np.generic]]


class Model(Protocol):
    """A loaded model. ``run`` may be called from several threads at once and never touches the network."""

    def run(self, inputs: Tensors) -> Tensors:
        """All outputs by name, the caller's to keep. Raises ModelError if the model cannot answer these inputs."""
        ...


class Runtime(Protocol):
    """A way to load models."""

    def providers(self) -> Sequence[str]:
        """The providers that may work on this machine; ``CPU`` is one of them."""
        ...

    def version(self) -> str:
        """What a compiled model depends on besides the model and the device: name and version, one line."""
        ...

    def load(self, model: Path, threads: int, provider: str = CPU, cache: Path | None = None) -> Model:
        """Load a model on one provider, and on no other. Raises ModelError if it cannot be.

        ``cache``: a folder that outlives the process, for what is expensive to build from this very model.
        """
        ...
