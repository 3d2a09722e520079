"""Changes of an ONNX graph, for planting faults."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

Array = NDArray[Any]
Operand = str | Array | np.generic  # a tensor's name, or a new constant
WEIGHTED = ("Conv", "Gemm")


class Graph:
    """A model under the knife. Tensors and constants go by their names, nodes by operator and place among its kind."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self._graph = model, model.graph

    def nodes(self, operator: str) -> list[NodeProto]:
        return [node for node in self._graph.node if node.op_type == operator]

    def weighted(self) -> list[NodeProto]:
        """Convolutions and the last layer, in order."""
        return [node for node in self._graph.node if node.op_type in WEIGHTED]

    def constant(self, name: str) -> Array:
        return numpy_helper.to_array(self._constant(name))

    def change(self, name: str, new: Callable[[Array], Any]) -> None:
        """Replace a constant by what ``new`` makes of it, of the same dtype."""
        old = self.constant(name)
        value = np.ascontiguousarray(new(old.copy()), old.dtype).reshape(old.shape)
        self._constant(name).CopyFrom(numpy_helper.from_array(value, name))

    def add(self, value: Array | np.generic) -> str:
        """A new constant's name."""
        name = f"planted constant {len(self._graph.initializer)}"
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def attributes(self, node: NodeProto, **attributes: Any) -> None:
        """In place of all that it had."""
        del node.attribute[:]
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())

    def insert(self, tensor: str, operator: str, *others: Operand, outputs: int = 1, **attributes: Any) -> str:
        """Add operator(tensor, *others) behind what it needs; the name of its first output, which nothing takes yet."""
        made = f"planted {operator} {len(self._graph.node)}"
        inputs = [tensor, *map(self._operand, others)]
        names = [made, *(f"{made} {i}" for i in range(1, outputs))]
        known = {name: place for place, node in enumerate(self._graph.node, 1) for name in node.output}
        place = max(known.get(name, 0) for name in inputs)
        self._graph.node.insert(place, helper.make_node(operator, inputs, names, made, **attributes))
        return made

    def reroute(self, tensor: str, to: str, but: Sequence[str] = ()) -> None:
        """Let all that takes ``tensor`` take ``to`` instead, except for what gives ``to`` or one of ``but``."""
        for node in self._graph.node:
            if not {to, *but}.intersection(node.output):
                _replace(node.input, tensor, to)

    def after(self, tensor: str, operator: str, *others: Operand, **options: Any) -> str:
        """Let what took ``tensor`` take operator(tensor, *others) instead; the result's name."""
        made = self.insert(tensor, operator, *others, **options)
        self.reroute(tensor, made)
        return made

    def before(self, node: NodeProto, operator: str, *others: Operand, **options: Any) -> None:
        """Let ``node`` alone take operator(its first input, *others) in place of that input."""
        node.input[0] = self.insert(node.input[0], operator, *others, **options)

    def at_end(self, output: str, operator: str, *others: Operand) -> None:
        """Let the model's ``output`` be operator(that, *others)."""
        inner = f"{output} before"
        for node in self._graph.node:
            _replace(node.output, output, inner)
        self._graph.node.append(helper.make_node(operator, [inner, *map(self._operand, others)], [output]))

    def _operand(self, operand: Operand) -> str:
        return operand if isinstance(operand, str) else self.add(operand)

    def _constant(self, name: str) -> onnx.TensorProto:
        return next(tensor for tensor in self._graph.initializer if tensor.name == name)


def _replace(names: Any, old: str, new: str) -> None:
    names[:] = [new if name == old else name for name in names]
