"""An ONNX file of any origin, made into one that a device knows how to use: see ``adopt``.

Kept is the network, bit for bit. The batch becomes free, tensors get the workload's names, scores become probabilities
where they are logits, and what the workload watches about its input is put beside the network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, version_converter

from skerry_cloud.adapters.onnx_model import ERRORS, raw
from skerry_cloud.train.export import IR_VERSION, OPSET, OUTPUTS, strip, watcher
from skerry_cloud.workloads import Workload
from skerry_shared.errors import ModelError
from skerry_shared.files import write_durably
from skerry_shared.golden import difference
from skerry_shared.release import TensorSpec

SCORES, MONITORS = OUTPUTS
FOREIGN: tuple[type[Exception], ...] = (
    *ERRORS,
    StopIteration,
    DecodeError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)
SAME, MAX_PARITY = 8, 1e-4  # inputs that a converted file must answer as before, and how closely
SUMS = 1e-3  # that the scores of an input may be off 1, if they are to be probabilities

Note = str


def adopt(source: Path, target: Path, workload: Workload, samples: NDArray[Any], scores: str = "") -> list[Note]:
    """Write ``target`` from ``source``; what was changed, a line each. ``samples`` are raw inputs of the workload.

    ``scores`` names the output that holds them; else it is the one so called, or the only one. Raises ModelError that
    names the tensor and what to do, where the file does not fit the workload.
    """
    model, notes = _read(source), list[Note]()
    _take_input(model.graph, workload.input, notes)
    _take_outputs(model.graph, scores, notes)
    model = _converted(model, samples, notes)
    _check_scores(model, workload, samples, notes)
    if MONITORS not in _names(model.graph.output):
        model = _watched(model, workload, samples)
        notes.append(f"monitors {', '.join(workload.monitors)} are computed beside the network")
    model.ir_version = min(model.ir_version, IR_VERSION)
    write_durably(target, strip(model).SerializeToString(deterministic=True))
    return notes


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
        if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
            raise ModelError(f"{path.name}: keeps its weights in another file; save it as one")
        onnx.checker.check_model(model, full_check=True)
        if _opset(model) > OPSET:
            told = f"opset {_opset(model)}; devices' runtimes know {OPSET}: export it again with that"
            raise ModelError(f"{path.name}: {told}")
        return model
    except FOREIGN as error:
        raise ModelError(f"{path.name}: not an ONNX model that can be used: {' '.join(str(error).split())}") from None


def _opset(model: onnx.ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _converted(model: onnx.ModelProto, samples: NDArray[Any], notes: list[Note]) -> onnx.ModelProto:
    """In the opset of our own exports, with the same answers."""
    opset = _opset(model)
    if opset == OPSET:
        return model
    try:
        converted = version_converter.convert_version(model, OPSET)
    except FOREIGN as error:
        raise ModelError(f"opset {opset}: cannot be converted to {OPSET}: {' '.join(str(error).split())}") from None
    before, after = (_answer(one, samples[:SAME])[SCORES] for one in (model, converted))
    apart = difference(SCORES, after, before)
    if apart > MAX_PARITY:
        raise ModelError(f"opset {opset}: converted to {OPSET}, scores differ by {apart:.2g}, over {MAX_PARITY}")
    notes.append(f"opset {opset} is converted to {OPSET}")
    return converted


def _take_input(graph: onnx.GraphProto, spec: TensorSpec, notes: list[Note]) -> None:
    """The file's one input, under the workload's name, with a free batch."""
    constants = _names(graph.initializer)
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ModelError(f"inputs: the file takes {_listed(inputs)}; a workload has one")
    name, tensor = inputs[0].name, inputs[0].type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    shape = [size.dim_value or -1 for size in tensor.shape.dim]
    fits = len(shape) == len(spec.shape) and all(
        size in (-1, want) for size, want in zip(shape[1:], spec.shape[1:], strict=True)
    )
    if dtype != spec.dtype or not fits:
        raise ModelError(
            f"input {name!r}: the file takes {dtype} {shape}, workload input {spec.name!r} is {spec.dtype} "
            f"{list(spec.shape)}; let the file do the pre-processing, or declare the input as the file takes it"
        )
    if tensor.shape.dim[0].dim_value:
        notes.append(f"input {name!r}: its batch of {tensor.shape.dim[0].dim_value} is made free")
    tensor.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]  # they may tell the old batch
    _rename(graph, name, spec.name, notes)


def _take_outputs(graph: onnx.GraphProto, scores: str, notes: list[Note]) -> None:
    """The scores under that name, and the monitors if there are any; nothing else."""
    found = which([value.name for value in graph.output], scores)
    for value in [value for value in graph.output if value.name not in (found, MONITORS)]:
        notes.append(f"output {value.name!r} is left out")
        graph.output.remove(value)
    _prune(graph)
    _rename(graph, found, SCORES, notes)
    for value in graph.output:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def which(outputs: Sequence[str], wanted: str) -> str:
    """The output that holds the scores: the one that is wanted, or called so, or the only one beside the monitors.

    Raises ModelError that names them all.
    """
    others = [name for name in outputs if name != MONITORS]
    found = wanted or (SCORES if SCORES in outputs else others[0] if len(others) == 1 else "")
    if found not in outputs:
        listed = ", ".join(map(repr, outputs)) or "none"
        missing = f"no output {wanted!r}" if wanted else "not one output"
        raise ModelError(f"scores: {missing} in the file; it has {listed}; name one by --scores")
    return found


def _check_scores(model: onnx.ModelProto, workload: Workload, samples: NDArray[Any], notes: list[Note]) -> None:
    """float32 probabilities, one a label and input, whatever the size of the batch; logits get a softmax."""
    answers = _answer(model, samples[:3])
    for name, width in ((SCORES, len(workload.labels)), (MONITORS, len(workload.monitors))):
        if name in answers and answers[name].shape != (len(samples[:3]), width):
            raise ModelError(f"output {name!r}: {list(answers[name].shape)} for 3 inputs, expected {[3, width]}")
        if name in answers and answers[name].dtype != np.float32:
            raise ModelError(f"output {name!r}: is {answers[name].dtype}, devices take float32: cast it in the file")
    scores = _answer(model, samples)[SCORES]
    if not np.isfinite(scores).all():
        raise ModelError(f"output {SCORES!r}: not every value is a finite number")
    if scores.min() < 0 or np.abs(scores.sum(axis=1) - 1).max() > SUMS:
        _append_softmax(model.graph)
        notes.append("scores were no probabilities: softmax is appended")


def _append_softmax(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.output[:] = ["logits" if name == SCORES else name for name in node.output]
        node.input[:] = ["logits" if name == SCORES else name for name in node.input]
    graph.node.append(helper.make_node("Softmax", ["logits"], [SCORES], "softmax", axis=1))


def _watched(model: onnx.ModelProto, workload: Workload, samples: NDArray[Any]) -> onnx.ModelProto:
    """The model, with the monitors that the workload's ``watch`` computes from the same input."""
    watch = compose.add_prefix(watcher(workload, torch.tensor(samples[:2])), "watch/")
    graph, name = watch.graph, workload.input.name
    _rename(graph, f"watch/{name}", name, [])
    _rename(graph, f"watch/{MONITORS}", MONITORS, [])
    model.graph.node.extend(graph.node)
    model.graph.initializer.extend(graph.initializer)
    model.graph.output.extend(graph.output)
    model.functions.extend(watch.functions)
    return model


def _answer(model: onnx.ModelProto, samples: NDArray[Any]) -> dict[str, NDArray[Any]]:
    try:
        return raw(model.SerializeToString(), samples)
    except ModelError as error:
        raise ModelError(f"{error}; is the batch fixed inside the file's graph?") from None


def _prune(graph: onnx.GraphProto) -> None:
    """Remove what no output needs."""
    needed = _names(graph.output)
    for node in reversed(list(graph.node)):
        if needed.intersection(node.output):
            needed.update(node.input)
        else:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in needed]:
        graph.initializer.remove(tensor)


def _rename(graph: onnx.GraphProto, old: str, new: str, notes: list[Note]) -> None:
    if old == new:
        return
    if new in {name for node in graph.node for name in (*node.input, *node.output)}:
        raise ModelError(f"tensor {new!r}: the file uses that name inside; rename it there")
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name
    notes.append(f"{old!r} is called {new!r}")


def _names(values: Sequence[Any]) -> set[str]:
    return {value.name for value in values}


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(repr(value.name) for value in values) or "none"
