"""Inputs and what they are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Examples:
    """Real data. ``inputs``: n × the workload's raw shape and dtype; ``labels``: int64, n, places in its ``labels``."""

    inputs: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[Any] | slice) -> "Examples":
        """The examples at these places, or where this mask is true, in that order."""
        return Examples(self.inputs[rows], self.labels[rows])
