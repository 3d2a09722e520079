"""Passes on the graph: the same answers from a smaller file, and half precision."""

import itertools
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx
import onnx_ir
import onnx_ir.passes.common as clean
from onnxruntime.transformers.float16 import convert_float_to_float16

from skerry_cloud.compress import graphs
from skerry_cloud.passes import Form, Material

IDLE = (
    clean.IdentityEliminationPass(),
    clean.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    clean.CommonSubexpressionEliminationPass(),
    clean.DeduplicateInitializersPass(),
    clean.RemoveUnusedNodesPass(),
    clean.RemoveUnusedOpsetsPass(),
    clean.ClearMetadataAndDocStringPass(),
)


@dataclass(frozen=True)
class Slim:
    """Drop what does not change an answer: idle nodes, what is there twice, shape notes, long names."""

    name: ClassVar[str] = "slim"
    takes: ClassVar[Form] = "onnx"
    gives: ClassVar[Form] = "onnx"

    def __call__(self, source: Path, target: Path, material: Material) -> None:  # noqa: ARG002
        """Of a small INT8 file, half is notes and names."""
        graphs.rewrite(source, target, _slim)


@dataclass(frozen=True)
class Half:
    """The network in float16, with float32 around it. For GPUs: a CPU computes it in float32."""

    name: ClassVar[str] = "half"
    takes: ClassVar[Form] = "onnx"
    gives: ClassVar[Form] = "onnx"

    def __call__(self, source: Path, target: Path, material: Material) -> None:  # noqa: ARG002
        """Convert."""
        graphs.rewrite(source, target, _halve)


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx_ir.from_proto(model)
    for step in IDLE:
        made = step(made).model
    slim = onnx_ir.to_proto(made)
    slim.graph.ClearField("value_info")
    _rename(slim.graph)
    return slim


def _halve(model: onnx.ModelProto) -> onnx.ModelProto:
    network = {node.name for node in graphs.network_nodes(model.graph)}
    around = [node.name for node in model.graph.node if node.name not in network or node.op_type == "Softmax"]
    halved = convert_float_to_float16(model, keep_io_types=True, node_block_list=around)
    return onnx_ir.to_proto(clean.TopologicalSortPass()(onnx_ir.from_proto(halved)).model)


def _rename(graph: onnx.GraphProto) -> None:
    """Give every value but inputs and outputs a short name, and nodes, which need none, no name."""
    kept = {value.name for value in [*graph.input, *graph.output]}
    short = (name for name in _short_names() if name not in kept)
    renamed = {name: name for name in ["", *kept]}
    for tensor in graph.initializer:
        renamed[tensor.name] = next(short)
        tensor.name = renamed[tensor.name]
    for node in graph.node:
        node.name = ""
        node.input[:] = [renamed[name] for name in node.input]
        renamed.update({name: next(short) for name in node.output if name not in renamed})
        node.output[:] = [renamed[name] for name in node.output]


def _short_names() -> Iterator[str]:
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_letters, repeat=length))
