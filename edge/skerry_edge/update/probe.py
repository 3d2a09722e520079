"""The golden check: does this model, on this device's own runtime, answer known inputs as it did in the cloud?"""

import numpy as np
from numpy.typing import NDArray

from skerry_shared.bundle import Bundle
from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import Model, Tensors
from skerry_shared.release import Manifest


def probe(model: Model, bundle: Bundle) -> float:
    """The largest difference from any golden output. Raises ModelError where it exceeds the manifest's tolerance."""
    golden, tolerance = bundle.golden, bundle.manifest.tolerance
    if not golden.inputs or not golden.outputs:
        raise ModelError("golden check: the bundle has no golden inputs and outputs, so nothing shows that it works")
    answers = model.run(golden.inputs)
    check_contract(bundle.manifest, golden.inputs, answers)
    differences = {name: difference(name, answers.get(name), right) for name, right in golden.outputs.items()}
    name, worst = max(differences.items(), key=lambda item: item[1])
    if not worst <= tolerance:  # a tolerance of NaN allows nothing
        raise ModelError(f"golden check: output {name!r} differs by {worst:.3g}, tolerance {tolerance:.3g}")
    return worst


def check_contract(manifest: Manifest, inputs: Tensors, answers: Tensors) -> None:
    """Raises ModelError unless these are a model's tensors as all the rest relies on; see ``skerry_shared.sketch``."""
    examples = next(len(array) for array in inputs.values())
    found = {spec.name: inputs[spec.name].dtype.name for spec in manifest.inputs if spec.name in inputs}
    if len(manifest.inputs) != 1 or found != {spec.name: spec.dtype for spec in manifest.inputs}:
        raise ModelError("golden check: the manifest must name the one input, and its golden values be of its dtype")
    for name, width in (("scores", len(manifest.labels)), ("monitors", len(manifest.baseline) - 2)):
        array = answers.get(name)
        if array is None or array.dtype != np.float32 or array.shape != (examples, width):
            shape = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise ModelError(f"golden check: output {name!r} is {shape}, expected float32 {(examples, width)}")


def difference(name: str, found: NDArray[np.generic] | None, right: NDArray[np.generic]) -> float:
    """The largest absolute difference; infinite where only one is NaN. Raises ModelError on another shape."""
    if found is None or found.shape != right.shape:
        shape = "nothing" if found is None else f"shape {found.shape}"
        raise ModelError(f"golden check: output {name!r} is {shape}, expected shape {right.shape}")
    a, b = found.astype(np.float64), right.astype(np.float64)
    apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))
