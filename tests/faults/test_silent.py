"""Models that answer wrongly without an error: the golden check refuses every one, and lets healthy ones in."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from silent.check import activate, alarms, refusal
from silent.faults import FAULTS, Fault
from silent.healthy import ARCH, FLOAT, INT8, Healthy, make
from skerry_cloud.adapters.onnx_model import OnnxModel
from skerry_cloud.compress.passes.static import SCHEMES, Int8
from skerry_edge.infer.measure import Job

EMULATOR = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
PROGRAM = "from skerry_edge.infer.measure import main; main()"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Healthy:
    return make(tmp_path_factory.mktemp("healthy"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_silent_fault_is_refused(healthy: Healthy, fault: Fault) -> None:
    assert refusal(fault, healthy)


def test_the_healthy_are_let_in(healthy: Healthy) -> None:
    for precision in (FLOAT, INT8):
        activate(healthy.folder / precision)
    assert alarms(healthy, 96) == []  # each way to compute them once


@pytest.mark.slow
def test_no_false_alarm_in_a_thousand_activations(healthy: Healthy) -> None:
    assert alarms(healthy, 1000) == []


def test_golden_inputs_show_every_label(healthy: Healthy) -> None:
    for precision in (FLOAT, INT8):
        scores = healthy.bundle(precision).golden.outputs["scores"]
        assert set(scores.argmax(axis=1)) == set(range(10))
        assert np.sort(scores.max(axis=1))[2] < 0.9  # unsure answers, in which a fault shows


@pytest.fixture
def full_range(healthy: Healthy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The INT8 bundle with weights of 8 bits and not 7, and the answers of exact arithmetic."""
    folder = tmp_path / "bundle"
    shutil.copytree(healthy.folder / INT8, folder)
    monkeypatch.setitem(SCHEMES, ARCH, replace(SCHEMES[ARCH], reduce_range=False))
    Int8(ARCH)(healthy.source, folder / "model.onnx", healthy.material)
    answers = OnnxModel(folder / "model.onnx", optimised=False).run(np.load(folder / "golden/in/picture.npy"))
    np.save(folder / "golden/out/scores.npy", answers.scores)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not EMULATOR, reason="needs qemu-x86_64: sudo apt-get install qemu-user-static")
def test_sums_that_saturate_are_found_on_the_chip_where_they_do(healthy: Healthy, full_range: Path) -> None:
    assert emulated("max", full_range).startswith("golden check: output 'scores' differs")  # AVX2: sums of 16 bits
    assert not emulated("Nehalem", full_range)  # SSE: sums of 32 bits
    for cpu in ("max", "Nehalem"):
        for precision in (FLOAT, INT8):
            assert not emulated(cpu, healthy.folder / precision)


def emulated(cpu: str, folder: Path) -> str:
    """What an agent's trial says on such a processor."""
    job = json.dumps(asdict(Job(str(folder), "cpu", 1, str(folder), 4 << 30)))
    command = [str(EMULATOR), sys.executable, "-c", PROGRAM, job]
    done = subprocess.run(command, env={**os.environ, "QEMU_CPU": cpu}, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout)["fault"])
