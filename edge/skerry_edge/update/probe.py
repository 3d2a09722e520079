"""The golden check: does this model, on this device's own runtime, answer known inputs as it did in the cloud?"""

import numpy as np
from numpy.typing import NDArray

from skerry_shared.bundle import Bundle
from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import Model


def probe(model: Model, bundle: Bundle) -> float:
    """The largest difference from any golden output. Raises ModelError where it exceeds the manifest's tolerance."""
    golden, tolerance = bundle.golden, bundle.manifest.tolerance
    if not golden.inputs or not golden.outputs:
        raise ModelError("golden check: the bundle has no golden inputs and outputs, so nothing shows that it works")
    answers = model.run(golden.inputs)
    differences = {name: difference(name, answers.get(name), right) for name, right in golden.outputs.items()}
    name, worst = max(differences.items(), key=lambda item: item[1])
    if not worst <= tolerance:  # a tolerance of NaN allows nothing
        raise ModelError(f"golden check: output {name!r} differs by {worst:.3g}, tolerance {tolerance:.3g}")
    return worst


def difference(name: str, found: NDArray[np.generic] | None, right: NDArray[np.generic]) -> float:
    """The largest absolute difference; infinite where only one is NaN. Raises ModelError on another shape."""
    if found is None or found.shape != right.shape:
        shape = "nothing" if found is None else f"shape {found.shape}"
        raise ModelError(f"golden check: output {name!r} is {shape}, expected shape {right.shape}")
    a, b = found.astype(np.float64), right.astype(np.float64)
    apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))
