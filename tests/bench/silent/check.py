"""Are silent faults caught by what a device does with a bundle, and are healthy ones let in?"""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort

from silent.faults import FAULTS, Fault
from silent.healthy import FLOAT, INT8, Healthy, make
from skerry_edge.adapters.runtime_onnx import OnnxModel
from skerry_edge.infer.measure import Job, measure
from skerry_edge.infer.models import load_model
from skerry_edge.update.probe import probe
from skerry_shared import bundle
from skerry_shared.errors import ModelError, SkerryError
from skerry_shared.ports.runtime import Model, Tensors

LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
THREADS, PARTS = (1, 2, 3), (32, 1, 5, 8)  # threads; examples that are asked at a time


def count(folder: Path) -> tuple[int, int]:
    """Faults that a device refuses, and all that were planted. ``folder`` is empty, for the healthy bundles."""
    healthy = make(folder)
    return sum(bool(refusal(fault, healthy)) for fault in FAULTS), len(FAULTS)


def refusal(fault: Fault, healthy: Healthy) -> str:
    """Why a device does not take the faulty bundle; empty: it does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "bundle")
        shutil.copytree(healthy.folder / fault.precision, copy)
        fault.plant(copy, healthy)
        try:
            activate(copy)
        except SkerryError as error:
            return str(error)
        return ""


def activate(folder: Path) -> None:
    """What an agent does with an unpacked bundle before it serves: its trial, here in this process, and its probe."""
    with tempfile.TemporaryDirectory() as cache:
        measure(Job(str(folder), "cpu", 1, cache, 1 << 30))
    unpacked = bundle.load(folder)
    probe(load_model(unpacked, 1), unpacked)


def alarms(healthy: Healthy, activations: int) -> list[str]:
    """False ones: healthy bundles that a device refuses, computed with other kernels, threads and batches each time."""
    found = []
    for precision, level, threads, part in itertools.islice(itertools.cycle(_ways()), activations):
        unpacked = healthy.bundle(precision)
        try:
            probe(_InParts(_model(unpacked.model, level, threads), part), unpacked)
        except ModelError as error:
            found.append(f"{precision}, {level}, {threads} threads, {part} at a time: {error}")
    return found


def _ways() -> Iterator[tuple[str, str, int, int]]:
    return itertools.product((FLOAT, INT8), LEVELS, THREADS, PARTS)


def _model(path: Path, level: str, threads: int) -> Model:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
    options.intra_op_num_threads = threads
    return OnnxModel(ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


class _InParts:
    """Asks a model a few examples at a time."""

    def __init__(self, model: Model, part: int) -> None:
        self._model, self._part = model, part

    def run(self, inputs: Tensors) -> Tensors:
        length = len(next(iter(inputs.values())))
        answers = [
            self._model.run({name: array[start : start + self._part] for name, array in inputs.items()})
            for start in range(0, length, self._part)
        ]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
