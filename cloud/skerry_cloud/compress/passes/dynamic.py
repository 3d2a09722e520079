"""For transformer-like models, whose weights are matrices: integers for the weights alone, or made as answers come."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.onnx_model import ONNXModel

from skerry_cloud.compress import graphs
from skerry_cloud.passes import Form, Material

MATRICES = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Dynamic:
    """8-bit weights, and activations scaled anew for every input: needs no calibration. Weights keep to 7 bits, so that
    no CPU saturates."""

    name: ClassVar[str] = "dynamic"
    takes: ClassVar[Form] = "onnx"
    gives: ClassVar[Form] = "onnx"

    def __call__(self, source: Path, target: Path, material: Material) -> None:  # noqa: ARG002
        """Quantise every matrix."""
        graphs.rewrite(source, target, self._quantise)

    def _quantise(self, model: onnx.ModelProto) -> onnx.ModelProto:
        around = _around(model.graph)
        return graphs.through_file(
            lambda path: quantize_dynamic(
                model, path, list(MATRICES), True, True, QuantType.QInt8, nodes_to_exclude=around
            )
        )


@dataclass(frozen=True)
class Weights:
    """Weights of matrix products in 4 or 8 bits, in blocks with a scale each; activations stay float."""

    bits: Literal[4, 8] = 8
    block: int = 32

    name: ClassVar[str] = "weights"
    takes: ClassVar[Form] = "onnx"
    gives: ClassVar[Form] = "onnx"

    def __post_init__(self) -> None:
        if self.block < 16 or self.block & (self.block - 1):
            raise ValueError("needs block to be a power of two from 16 up")

    def __call__(self, source: Path, target: Path, material: Material) -> None:  # noqa: ARG002
        """Quantise every matrix."""
        graphs.rewrite(source, target, self._quantise)

    def _quantise(self, model: onnx.ModelProto) -> onnx.ModelProto:
        around = _around(model.graph)
        products = ONNXModel(model)
        products.replace_gemm_with_matmul()
        logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.ERROR)
        quantiser = MatMulNBitsQuantizer(
            products.model, self.bits, self.block, is_symmetric=True, accuracy_level=4, nodes_to_exclude=around
        )
        quantiser.process()
        made: onnx.ModelProto = quantiser.model.model
        return made


def _around(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes that are not to be touched."""
    network = graphs.names(graph, MATRICES)
    return [node.name for node in graph.node if node.name not in network]
