"""The golden check: does this model, on this device's own runtime, answer known inputs as it did in the cloud?"""

import numpy as np

from skerry_shared import golden
from skerry_shared.bundle import Bundle
from skerry_shared.errors import ModelError
from skerry_shared.ports.runtime import Model, Tensors
from skerry_shared.release import Manifest


def probe(model: Model, bundle: Bundle) -> float:
    """The largest difference from any golden output. Raises ModelError where it exceeds the manifest's tolerance."""
    golden.require(bundle.golden)
    answers = model.run(bundle.golden.inputs)
    check_contract(bundle.manifest, bundle.golden.inputs, answers)
    return golden.worst(bundle.golden, answers, bundle.manifest.tolerance)


def check_contract(manifest: Manifest, inputs: Tensors, answers: Tensors) -> None:
    """Raises ModelError unless these are a model's tensors as all the rest relies on; see ``skerry_shared.sketch``."""
    examples = next(len(array) for array in inputs.values())
    found = {spec.name: inputs[spec.name].dtype.name for spec in manifest.inputs if spec.name in inputs}
    if len(manifest.inputs) != 1 or found != {spec.name: spec.dtype for spec in manifest.inputs}:
        raise ModelError("golden check: the manifest must name the one input, and its golden values be of its dtype")
    for name, width in (("scores", len(manifest.labels)), ("monitors", len(manifest.baseline) - 2)):
        array = answers.get(name)
        if array is None and width == 0:
            continue
        if array is None or array.dtype != np.float32 or array.shape != (examples, width):
            shape = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise ModelError(f"golden check: output {name!r} is {shape}, expected float32 {(examples, width)}")
