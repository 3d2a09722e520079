"""From a trained network to one ONNX file that takes raw input: prepare, network, softmax, and what is watched.

The file loads on ONNX Runtime 1.23 (JetPack 6): opset 20, IR version 10. Node metadata are stripped: the exporter
writes stack traces with paths of this machine into every node, which weigh more than a small model and tell tales.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx
import torch
from torch import Tensor, nn

from skerry_cloud.passes import Form, Material
from skerry_cloud.train import networks
from skerry_cloud.workloads import Workload
from skerry_shared.files import write_durably

OPSET, IR_VERSION = 20, 10
OUTPUTS = ("scores", "monitors")


class Served(nn.Module):
    """What a device runs: raw input in; probabilities (batch × labels) and monitors (batch × M) out, both float32."""

    def __init__(self, network: nn.Module, workload: Workload) -> None:
        super().__init__()
        self.network = network
        self._workload = workload

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Answer one batch."""
        logits = self.network(self._workload.takes(inputs))
        return torch.softmax(logits, dim=1), self._workload.watch(self._workload.sees(inputs))


class Watch(nn.Module):
    """What is monitored about raw input, alone: for models that were not trained here."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self._workload = workload

    def forward(self, inputs: Tensor) -> Tensor:
        """Monitors, batch × M."""
        return self._workload.watch(inputs)


@dataclass(frozen=True)
class Onnx:
    """The pass from a network to ONNX."""

    name: ClassVar[str] = "onnx"
    takes: ClassVar[Form] = "network"
    gives: ClassVar[Form] = "onnx"

    def __call__(self, source: Path, target: Path, material: Material) -> None:
        """Export it as training does."""
        network = networks.read(source, material.workload)
        export(network, material.workload, torch.tensor(material.train.inputs[:2]), target)


def export(network: nn.Module, workload: Workload, example: Tensor, path: Path) -> None:
    """Write the network durably as ONNX; ``example`` is a batch of two raw inputs or more, to trace with."""
    model = _onnx(Served(network, workload), workload.input.name, OUTPUTS, example)
    write_durably(path, model.SerializeToString(deterministic=True))


def watcher(workload: Workload, example: Tensor) -> onnx.ModelProto:
    """The workload's ``watch`` as a model of its own."""
    return _onnx(Watch(workload), workload.input.name, OUTPUTS[1:], example)


def _onnx(module: nn.Module, name: str, outputs: Sequence[str], example: Tensor) -> onnx.ModelProto:
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[name],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None  # it is None only for the old exporter
    model = strip(program.model_proto)
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without doc strings, metadata and the exporter's notes."""
    for node in [*model.graph.node, *(node for function in model.functions for node in function.node)]:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's advice to its own developers."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
