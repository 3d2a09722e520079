"""The pass from a network to .tflite, in float or in integers: extra ``tflite-export``.

Like the ONNX export it takes raw input and gives scores and monitors, all in one graph. In integers means the network,
weights per channel and activations, calibrated on typical inputs; pre-processing, softmax and monitors stay float. The
graph holds one example, because the converter knows no free batch.
"""

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from skerry_cloud.adapters import litert_model
from skerry_cloud.adapters.litert_model import LiteRtModel
from skerry_cloud.passes import Form, Material
from skerry_cloud.train import fit, networks
from skerry_cloud.train.export import OUTPUTS, Served, quiet
from skerry_shared.errors import ModelError

NETWORK = r".*_network/.*"  # tensors that the converter names after ``Served.network``
MAX_PARITY = 1e-4  # between PyTorch and the float file; some 1e-6 is usual
PARITY_INPUTS = 64
NEEDED = "tflite needs litert-torch and ai-edge-quantizer: pip install 'skerry[tflite-export]'"


@dataclass(frozen=True)
class Tflite:
    """A .tflite file; ``integer`` for one whose network computes in 8 bits."""

    integer: bool = False

    name: ClassVar[str] = "tflite"
    takes: ClassVar[Form] = "network"
    gives: ClassVar[Form] = "tflite"

    def __call__(self, source: Path, target: Path, material: Material) -> None:
        """Convert, compare with PyTorch, quantise if that was asked for, and write durably."""
        network, workload = networks.read(source, material.workload).eval(), material.workload
        with tempfile.TemporaryDirectory() as folder, quiet():
            made = Path(folder, "model.tflite")
            _convert(Served(network, workload), torch.tensor(material.calibration[:1]), made)
            _name(made, workload.input.name)
            inputs = material.calibration[:PARITY_INPUTS]
            _check(LiteRtModel(made), inputs, fit.answer(network, workload, inputs))
            if self.integer:
                _quantise(made, workload.input.name, material.calibration)
            _finish(made, target)


def _convert(served: Served, example: torch.Tensor, path: Path) -> None:
    litert_torch = _library("litert_torch")
    try:
        litert_torch.convert(served.eval(), (example,)).export(str(path))
    except Exception as error:  # the converter raises whatever its passes raise
        raise ModelError(f"tflite: cannot be converted: {type(error).__name__}: {error}") from error


def _name(path: Path, given: str) -> None:
    """Give the signature the workload's names; the converter numbers outputs in their order."""
    model = litert_model.read(path)
    made = model.signatureDefs[0]
    outputs = sorted(made.outputs, key=lambda entry: int(entry.name.decode().rpartition("_")[2]))
    named = {name: entry.tensorIndex for name, entry in zip(OUTPUTS, outputs, strict=True)}
    litert_model.signature(model, {given: made.inputs[0].tensorIndex}, named)
    litert_model.write(model, path)


def _check(model: LiteRtModel, inputs: NDArray[Any], right: NDArray[np.float32]) -> None:
    parity = float(np.abs(model.run(inputs).scores - right).max())
    if not parity <= MAX_PARITY:  # a NaN is no parity either
        raise ModelError(f"tflite: scores differ from PyTorch's by {parity:.2g}, over {MAX_PARITY}")


def _quantise(path: Path, name: str, calibration: NDArray[Any]) -> None:
    """The network in integers, in place."""
    quantizer = _library("ai_edge_quantizer.quantizer").Quantizer(str(path))
    types = _library("ai_edge_quantizer.qtyping")
    quantizer.add_static_config(NETWORK, types.TFLOperationName.ALL_SUPPORTED, 8, 8)
    feeds = [{name: calibration[i : i + 1]} for i in range(len(calibration))]
    try:
        found = quantizer.calibrate({"serving_default": feeds}, num_threads=1)
        path.write_bytes(bytes(quantizer.quantize(found).quantized_model))
    except (ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"tflite: cannot be quantised: {error}") from None


def _finish(source: Path, target: Path) -> None:
    """Without what the converter wrote about this machine's code: tensors are numbered, metadata left out."""
    model = litert_model.read(source)
    for graph in model.subgraphs:
        graph.name = "main"
        for place, tensor in enumerate(graph.tensors):
            tensor.name = f"t{place}"
    model.metadata, model.description = None, "skerry"
    litert_model.write(model, target)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ModelError(NEEDED) from None
