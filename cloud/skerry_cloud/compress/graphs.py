"""Which nodes of an exported graph are the network: pre-processing, softmax and monitors are not to be touched."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from skerry_cloud.adapters.onnx_model import ERRORS
from skerry_shared.errors import ModelError
from skerry_shared.files import write_durably

FAULTS: tuple[type[Exception], ...] = (*ERRORS, KeyError, onnx.checker.ValidationError)
ROUNDING = ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulNBits")
WEIGHTED = ("Conv", "Gemm", "MatMul")  # the network begins at the first of these


def network_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """What follows a weighted node, itself included, and is not needed for the monitors; in topological order."""
    reached: set[str] = set()
    nodes = []
    for node in graph.node:
        if node.op_type in WEIGHTED or reached.intersection(node.input):
            reached.update(node.output)
            nodes.append(node)
    watched = _ancestors(graph, "monitors")
    return [node for node in nodes if not watched.intersection(node.output)]


def names(graph: onnx.GraphProto, types: tuple[str, ...]) -> list[str]:
    """Names of the network's nodes of these types. Raises ModelError if it has no weighted ones."""
    nodes = network_nodes(graph)
    if not any(node.op_type in WEIGHTED for node in nodes):
        raise ModelError(f"the graph has no {', '.join(WEIGHTED)} to compress")
    return [node.name for node in nodes if node.op_type in types]


def integers(model: onnx.ModelProto) -> bool:
    """Does it compute with integers, or from integer weights?"""
    return any(node.op_type in ROUNDING for node in model.graph.node)


def rounds(model: onnx.ModelProto) -> bool:
    """Does it compute with fewer than 32 bits anywhere?"""
    halves = (tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return integers(model) or any(halves)


def load(path: Path) -> onnx.ModelProto:
    """The model, every node with a name of its own. Raises ModelError."""
    try:
        model = onnx.load(path)
    except (OSError, DecodeError) as error:
        raise ModelError(f"{path.name}: not an ONNX model: {error}") from None
    for place, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{place}"
    return model


def rewrite(source: Path, target: Path, change: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    """Write durably what ``change`` makes of the model. Raises ModelError for whatever the libraries raise."""
    try:
        model = change(load(source))
        onnx.checker.check_model(model)
    except FAULTS as error:
        raise ModelError(f"{source.name}: {error}") from None
    write_durably(target, model.SerializeToString(deterministic=True))


def through_file(change: Callable[[Path], None]) -> onnx.ModelProto:
    """The model that ``change`` writes to the path which it is given: some libraries know no other way."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        change(path)
        return onnx.load(path)


def _ancestors(graph: onnx.GraphProto, output: str) -> set[str]:
    """The tensors that this output is computed from, itself included."""
    needed = {output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
    return needed
