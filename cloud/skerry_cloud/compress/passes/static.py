"""Static INT8 with ONNX Runtime: from a float32 model and calibration inputs to quantise-dequantise (QDQ) form.

Weights are signed and scaled per channel. Activations and the range of weights depend on the target: x86-64 without
VNNI adds pairs of products in 16 bits and saturates silently, unless weights keep to 7 bits (``reduce_range``); Arm
does not, and prefers signed activations. Only the network is touched: pre-processing, softmax and monitors stay float.
"""

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from skerry_cloud.adapters.onnx_model import OnnxModel
from skerry_cloud.compress import graphs
from skerry_cloud.passes import Blame, Form, Material

QUANTISED = (*graphs.WEIGHTED, "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean")
BATCH = 64
PROBES = 128  # inputs: the harm of an operator shows in some dozens of answers

Calibration = Literal["percentile", "minmax", "entropy"]
METHODS = {
    "percentile": CalibrationMethod.Percentile,
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
}


@dataclass(frozen=True)
class Scheme:
    """How an architecture wants its integers."""

    activations: QuantType
    reduce_range: bool


SCHEMES = {
    "x86_64": Scheme(QuantType.QUInt8, reduce_range=True),
    "aarch64": Scheme(QuantType.QInt8, reduce_range=False),
}


@dataclass(frozen=True)
class Int8:
    """Weights and activations in 8 bits.

    ``percentile`` of an activation's values is kept by that calibration, the rest clipped, so that an outlier does not
    coarsen all. ``spare`` operators, those that do most harm, stay float.
    """

    arch: str
    calibration: Calibration = "percentile"
    percentile: float = 99.99
    spare: int = 0

    name: ClassVar[str] = "int8"
    takes: ClassVar[Form] = "onnx"
    gives: ClassVar[Form] = "onnx"

    def __post_init__(self) -> None:
        if self.arch not in SCHEMES:
            raise ValueError(f"no scheme for arch {self.arch!r}; known: {', '.join(SCHEMES)}")
        if not 50 < self.percentile <= 100 or self.spare < 0:
            raise ValueError("needs 50 < percentile <= 100 and spare >= 0")

    def __call__(self, source: Path, target: Path, material: Material) -> None:
        """Calibrate, find whom to spare, quantise the others."""
        graphs.rewrite(source, target, lambda model: self._quantise(model, material.calibration))

    def blame(self, source: Path, material: Material) -> tuple[Blame, ...]:
        """How much each operator changes the answers if it alone is quantised, worst first."""
        model = graphs.load(source)
        return self._blame(model, self.ranges(model, material.calibration), material.calibration)

    def _quantise(self, model: onnx.ModelProto, inputs: NDArray[Any]) -> onnx.ModelProto:
        ranges = self.ranges(model, inputs)
        worst = self._blame(model, ranges, inputs)[: self.spare] if self.spare else ()
        spared = {blame.operator for blame in worst}
        return self._apply(model, ranges, [name for name in _nodes(model) if name not in spared])

    def _blame(self, model: onnx.ModelProto, ranges: TensorsData, inputs: NDArray[Any]) -> tuple[Blame, ...]:
        probes, types = inputs[:PROBES], {node.name: node.op_type for node in model.graph.node}
        exact = _scores(model, probes)

        def harm(name: str) -> float:
            return float(np.sqrt(np.mean(np.square(_scores(self._apply(model, ranges, [name]), probes) - exact))))

        found = (Blame(name, types[name], harm(name)) for name in _nodes(model))
        return tuple(sorted(found, key=lambda blame: -blame.harm))

    def ranges(self, model: onnx.ModelProto, inputs: NDArray[Any]) -> TensorsData:
        """Of every activation."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(model, path)
            calibrator = create_calibrator(
                path,
                QUANTISED,
                str(path.with_name("augmented.onnx")),
                METHODS[self.calibration],
                extra_options={"percentile": self.percentile} if self.calibration == "percentile" else {},
            )
            calibrator.collect_data(_Batches(model.graph.input[0].name, inputs))
            return calibrator.compute_data()

    def _apply(self, model: onnx.ModelProto, ranges: TensorsData, nodes: Sequence[str]) -> onnx.ModelProto:
        scheme = SCHEMES[self.arch]
        inferred = onnx.shape_inference.infer_shapes(copy.deepcopy(model))
        quantiser = QDQQuantizer(
            inferred, True, scheme.reduce_range, QuantType.QInt8, scheme.activations, ranges, list(nodes), [],
            list(QUANTISED), {},
        )  # fmt: skip
        quantiser.quantize_model()
        quantiser.model.topological_sort()
        made: onnx.ModelProto = quantiser.model.model
        return made


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Feeds raw inputs to ONNX Runtime's calibration, in batches of equal size; a rest that fills none is left out."""

    def __init__(self, name: str, inputs: NDArray[Any]) -> None:
        size = min(BATCH, len(inputs))
        starts = range(0, len(inputs) - size + 1, size)
        self._feeds = iter([{name: inputs[start : start + size]} for start in starts])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._feeds, None)


def _nodes(model: onnx.ModelProto) -> list[str]:
    return graphs.names(model.graph, QUANTISED)


def _scores(model: onnx.ModelProto, inputs: NDArray[Any]) -> NDArray[np.float32]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return OnnxModel(path).run(inputs).scores
