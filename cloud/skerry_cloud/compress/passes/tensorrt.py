"""INT8 as TensorRT wants it: explicit QDQ with symmetric scales, and the same ranges as a calibration table.

TensorRT takes zero points of 0 only, weights in float with their own pair of QuantizeLinear and DequantizeLinear, and
float biases; it fuses the pairs when it builds its engine (ONNX Runtime's documentation, "TensorRT Execution Provider",
quantised models). The table has the format of TensorRT's calibration cache, for who builds engines from a float file: a
line with the version and the kind of calibration, then for each tensor its name and the big-endian bits of its scale.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from skerry_cloud.compress import graphs
from skerry_cloud.compress.passes.static import Calibration, Int8
from skerry_cloud.passes import Form, Material

TABLE = "tensorrt.calibration"  # where the file's metadata keep it
STEPS = 127  # of a symmetric scale, to either side
QUANTISED = (*graphs.WEIGHTED, "Add", "MaxPool", "AveragePool", "GlobalAveragePool")
OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
    "QuantizeBias": False,
}


@dataclass(frozen=True)
class TensorRt:
    """For Jetson boards. ``version`` of the TensorRT that the table says it is for: JetPack 6.2 has 10.3."""

    calibration: Calibration = "entropy"
    version: str = "10.3.0"

    name: ClassVar[str] = "tensorrt"
    takes: ClassVar[Form] = "onnx"
    gives: ClassVar[Form] = "onnx"

    def __post_init__(self) -> None:
        parts = self.version.split(".")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise ValueError(f"version: {self.version!r} is not like 10.3.0")

    def __call__(self, source: Path, target: Path, material: Material) -> None:
        """Calibrate, put the pairs in, keep the table."""
        ranges = Int8("aarch64", self.calibration).ranges(graphs.load(source), material.calibration)
        graphs.rewrite(source, target, lambda model: self._apply(model, ranges))

    def _apply(self, model: onnx.ModelProto, ranges: TensorsData) -> onnx.ModelProto:
        nodes = graphs.names(model.graph, QUANTISED)
        quantiser = QDQQuantizer(
            onnx.shape_inference.infer_shapes(model), True, False, QuantType.QInt8, QuantType.QInt8, ranges, nodes, [],
            list(QUANTISED), OPTIONS,
        )  # fmt: skip
        quantiser.quantize_model()
        quantiser.model.topological_sort()
        made: onnx.ModelProto = quantiser.model.model
        onnx.helper.set_model_props(made, {TABLE: write_table(amplitudes(ranges), self.version)})
        return made


def amplitudes(ranges: TensorsData) -> dict[str, float]:
    """The largest absolute value that calibration keeps of each tensor."""
    return {name: max(abs(float(bound)) for bound in data.range_value) for name, data in ranges.items()}


def write_table(amplitudes: Mapping[str, float], version: str) -> str:
    """TensorRT's calibration cache of these tensors."""
    major, minor, patch = map(int, version.split("."))
    lines = [f"{name}: {struct.pack('>f', value / STEPS).hex()}" for name, value in sorted(amplitudes.items())]
    return "\n".join([f"TRT-{major * 10000 + minor * 100 + patch}-EntropyCalibration2", *lines, ""])


def read_table(text: str) -> dict[str, float]:
    """Undo ``write_table``: amplitudes by tensor, in float32."""
    pairs = (line.rpartition(": ") for line in text.splitlines()[1:])
    return {name: struct.unpack(">f", bytes.fromhex(bits))[0] * STEPS for name, _, bits in pairs}


def table(model: Path) -> str:
    """The calibration table in this file; empty if it has none."""
    if model.suffix != ".onnx":
        return ""
    properties = onnx.load(model, load_external_data=False).metadata_props
    return next((entry.value for entry in properties if entry.key == TABLE), "")
