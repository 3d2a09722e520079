"""Static INT8 with ONNX Runtime: from a float32 model and calibration inputs to quantise-dequantise (QDQ) form.

Weights are signed and scaled per channel. Activations and the range of weights depend on the target: x86-64 without
VNNI adds pairs of products in 16 bits and saturates silently, unless weights keep to 7 bits (``reduce_range``); Arm
does not, and prefers signed activations. Only the network is touched: pre-processing, softmax and monitors stay float.
"""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from skerry_cloud.adapters.onnx_model import ERRORS
from skerry_shared.errors import ConfigError, ModelError
from skerry_shared.files import write_durably

WEIGHTED = ("Conv", "Gemm", "MatMul")  # the network begins at the first of these
QUANTISED = (*WEIGHTED, "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean")
PERCENTILE = 99.99  # of activations; the rest is clipped, so that an outlier does not coarsen all
BATCH = 64


@dataclass(frozen=True)
class Scheme:
    """How an architecture wants its integers."""

    activations: QuantType
    reduce_range: bool


SCHEMES = {
    "x86_64": Scheme(QuantType.QUInt8, reduce_range=True),
    "aarch64": Scheme(QuantType.QInt8, reduce_range=False),
}


def quantise(source: Path, target: Path, arch: str, calibration: NDArray[Any]) -> None:
    """Write ``source`` (float32) as INT8 for ``arch`` to ``target``; ``calibration`` holds typical raw inputs.

    Raises ConfigError for an unknown architecture, ModelError if the model cannot be quantised.
    """
    if arch not in SCHEMES:
        raise ConfigError(f"int8: no scheme for {arch!r}; known: {', '.join(SCHEMES)}")
    model = onnx.load(source)
    nodes = network_nodes(model.graph)
    if not nodes:
        raise ModelError(f"int8: {source} has no {', '.join(WEIGHTED)} to quantise")
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "model.onnx"
        _quantise(model, draft, SCHEMES[arch], nodes, calibration)
        write_durably(target, draft.read_bytes())


def network_nodes(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes to quantise: what follows a weighted node, and is not needed for the monitors."""
    reached: set[str] = set()
    nodes = []
    for node in graph.node:  # in topological order
        if node.op_type in WEIGHTED or reached.intersection(node.input):
            reached.update(node.output)
            nodes.append(node)
    watched = _ancestors(graph, "monitors")
    return [node.name for node in nodes if node.op_type in QUANTISED and not watched.intersection(node.output)]


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Feeds raw inputs to ONNX Runtime's calibration, in batches of equal size."""

    def __init__(self, name: str, inputs: NDArray[Any]) -> None:
        """``name`` of the model's input; a rest that fills no batch is left out."""
        size = min(BATCH, len(inputs))
        starts = range(0, len(inputs) - size + 1, size)
        self._feeds = iter([{name: inputs[start : start + size]} for start in starts])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch, or None at the end."""
        return next(self._feeds, None)


def _quantise(model: onnx.ModelProto, target: Path, scheme: Scheme, nodes: list[str], inputs: NDArray[Any]) -> None:
    logging.getLogger().setLevel(logging.ERROR)  # it advises, through the root logger, steps that the export took
    try:
        quantize_static(
            model,
            target,
            Calibration(model.graph.input[0].name, inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=scheme.reduce_range,
            activation_type=scheme.activations,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE},
        )
    except ERRORS as error:
        raise ModelError(f"int8: {error}") from None


def _ancestors(graph: onnx.GraphProto, output: str) -> set[str]:
    """The tensors that this output is computed from, itself included."""
    needed = {output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
    return needed
