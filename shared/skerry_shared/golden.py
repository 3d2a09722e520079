"""Golden answers: how far a model's outputs are from those that were signed with it."""

import numpy as np
from numpy.typing import NDArray

from skerry_shared.bundle import Golden
from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import Tensors


def worst(golden: Golden, answers: Tensors, tolerance: float) -> float:
    """The largest difference from any golden output. Raises ModelError where it exceeds ``tolerance``."""
    require(golden)
    differences = {name: difference(name, answers.get(name), right) for name, right in golden.outputs.items()}
    name, largest = max(differences.items(), key=lambda item: item[1])
    if not largest <= tolerance:  # a tolerance of NaN allows nothing
        raise ModelError(f"golden check: output {name!r} differs by {largest:.3g}, tolerance {tolerance:.3g}")
    return largest


def require(golden: Golden) -> None:
    """Raises ModelError if there are no golden inputs or outputs."""
    if not golden.inputs or not golden.outputs:
        raise ModelError("golden check: the bundle has no golden inputs and outputs, so nothing shows that it works")


def difference(name: str, found: NDArray[np.generic] | None, right: NDArray[np.generic]) -> float:
    """The largest that two values are ``apart``. Raises ModelError on another shape."""
    if found is None or found.shape != right.shape:
        shape = "nothing" if found is None else f"shape {found.shape}"
        raise ModelError(f"golden check: output {name!r} is {shape}, expected shape {right.shape}")
    return float(apart(found, right).max(initial=0.0))


def apart(found: NDArray[np.generic], right: NDArray[np.generic]) -> NDArray[np.float64]:
    """How far each value is from the right one: absolutely up to 1, relatively beyond; infinite if only one is NaN."""
    a, b = found.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinities
        difference = np.abs(a - b) / np.maximum(1.0, np.abs(b))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.nan_to_num(np.where(same, 0.0, difference), nan=np.inf, posinf=np.inf)
