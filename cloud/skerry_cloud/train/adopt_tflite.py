"""A .tflite file of any origin, given the names that a device knows: see ``adopt``.

The graph stays as it is. Unlike an ONNX file it cannot be given monitors: it has them, or the workload declares none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.adapters import litert_model
from skerry_cloud.adapters.litert_model import LiteRtModel
from skerry_cloud.train.adopt_onnx import MONITORS, SCORES, SUMS, which
from skerry_cloud.workloads import Workload
from skerry_shared.errors import ModelError
from skerry_shared.release import TensorSpec


def adopt(source: Path, target: Path, workload: Workload, samples: NDArray[Any], scores: str = "") -> list[str]:
    """Write ``target`` from ``source``; what was changed, a line each. ``samples`` are raw inputs of the workload.

    ``scores`` names the output that holds them; else it is the one so called, or the only one. Raises ModelError that
    names the tensor and what to do, where the file does not fit the workload.
    """
    model = litert_model.read(source)
    graph = model.subgraphs[0]
    inputs, outputs = _named(model, graph.inputs, "inputs"), _named(model, graph.outputs, "outputs")
    taken = _input(graph, inputs, workload.input)
    found = which(list(outputs), scores)
    kept = {SCORES: outputs[found]} | {name: outputs[name] for name in outputs if name == MONITORS}
    if workload.monitors and MONITORS not in kept:
        raise ModelError(
            f"monitors: the file has no output of that name, and a .tflite file cannot be given one; workload "
            f"{workload.name} must declare monitors = (), or the file compute {', '.join(workload.monitors)}"
        )
    litert_model.signature(model, {workload.input.name: inputs[taken]}, kept)
    litert_model.write(model, target)
    _check(LiteRtModel(target), workload, samples)
    changed = [(taken, workload.input.name), (found, SCORES)]
    left_out = [f"output {name!r} is left out" for name in outputs if name not in (found, MONITORS)]
    return [f"{old!r} is called {new!r}" for old, new in changed if old != new] + left_out


def _named(model: Any, indices: Sequence[int], side: str) -> dict[str, int]:
    """The main graph's inputs or outputs: by the names of the file's signature, or of the tensors if it has none."""
    if model.signatureDefs:
        return {entry.name.decode(): entry.tensorIndex for entry in getattr(model.signatureDefs[0], side)}
    return {model.subgraphs[0].tensors[index].name.decode(): int(index) for index in indices}


def _input(graph: Any, inputs: dict[str, int], spec: TensorSpec) -> str:
    if len(inputs) != 1:
        raise ModelError(f"inputs: the file takes {', '.join(map(repr, inputs)) or 'none'}; a workload has one")
    ((name, index),) = inputs.items()
    tensor = graph.tensors[index]
    dtype, shape = litert_model.dtype(tensor), [int(size) for size in tensor.shape]
    if dtype != spec.dtype or shape[1:] != list(spec.shape[1:]):
        raise ModelError(
            f"input {name!r}: the file takes {dtype} {shape}, workload input {spec.name!r} is {spec.dtype} "
            f"{list(spec.shape)}; let the file do the pre-processing, or declare the input as the file takes it"
        )
    return name


def _check(model: LiteRtModel, workload: Workload, samples: NDArray[Any]) -> None:
    for name, array in model.outputs(samples[:1]).items():
        width = len(workload.labels if name == SCORES else workload.monitors)
        if array.dtype != np.float32 or array.shape != (1, width):
            raise ModelError(f"output {name!r}: {array.dtype} {list(array.shape)}, expected float32 {[1, width]}")
    scores = model.run(samples).scores
    if not np.isfinite(scores).all() or scores.min() < 0 or np.abs(scores.sum(axis=1) - 1).max() > 10 * SUMS:
        raise ModelError(f"output {SCORES!r}: holds no probabilities; end the network with a softmax")
