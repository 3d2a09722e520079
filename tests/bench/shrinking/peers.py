"""Other tools on the same champion and calibration inputs, each as its documentation shows.

NNCF and Olive get an environment of their own below build/bench; where that cannot be, they are skipped with a notice.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[3] / "build/bench"
INSTALL_S, RUN_S = 900, 600

FEED = """
import sys
import numpy as np
source, target, inputs = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
batches = [{"picture": inputs[start : start + 64]} for start in range(0, len(inputs), 64)]
"""

ORT = """
from onnxruntime.quantization import CalibrationDataReader, quantize_static
class Reader(CalibrationDataReader):
    left = iter(batches)
    def get_next(self):
        return next(self.left, None)
quantize_static(source, target, Reader())
"""

NNCF = """
import nncf
import onnx
onnx.save(nncf.quantize(onnx.load(source), nncf.Dataset(batches)), target)
"""

OLIVE = """
from olive.data.config import DataConfig
from olive.data.registry import Registry
from olive.hardware import DEFAULT_CPU_ACCELERATOR
from olive.model import ONNXModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.passes.onnx.quantization import OnnxStaticQuantization
class Pictures:
    def __len__(self):
        return len(batches)
    def __getitem__(self, place):
        return batches[place], np.zeros(len(batches[place]["picture"]))
@Registry.register_dataloader("pictures")
def pictures(dataset, **_):
    return Pictures()
@Registry.register_dataset("nothing")
def nothing(**_):
    return None
data = DataConfig(name="calibration", load_dataset_config={"type": "nothing"}, dataloader_config={"type": "pictures"})
step = create_pass_from_dict(
    OnnxStaticQuantization, {"data_config": data}, disable_search=True, accelerator_spec=DEFAULT_CPU_ACCELERATOR
)
made = step.run(ONNXModelHandler(source), target.removesuffix(".onnx"))
import shutil
shutil.copyfile(made.model_path, target)
"""


@dataclass(frozen=True)
class Peer:
    """A tool: what to install beside Skerry's own packages (nothing: it is one of these), and its program."""

    packages: tuple[str, ...]
    program: str


PEERS = {
    "onnxruntime quantize_static": Peer((), ORT),
    "NNCF quantize": Peer(("nncf", "onnx", "onnxruntime"), NNCF),
    "Olive OnnxStaticQuantization": Peer(("olive-ai", "onnxruntime", "requests", "torch==2.13.0"), OLIVE),
}


def run(source: Path, folder: Path, inputs: NDArray[np.uint8]) -> dict[str, Path]:
    """What each made of the ONNX file ``source``; ``inputs`` are for calibration. Told on stderr: what failed."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "inputs.npy", inputs)
    found = {}
    for name, peer in PEERS.items():
        target = folder / f"{name.split()[0].lower()}.onnx"
        try:
            if not target.is_file():
                _quantise(peer, _python(name, peer), source, target)
            found[name] = target
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or repr(error)
            print(f"peer {name}: skipped: {said.strip()[-300:]}", file=sys.stderr)
    return found


def _quantise(peer: Peer, python: Path, source: Path, target: Path) -> None:
    program = target.with_name(f"run_{target.stem}.py")  # not the name of what it imports
    program.write_text(FEED + peer.program)
    command = [str(each) for each in (python, program, source, target, target.with_name("inputs.npy"))]
    environment = {**os.environ, "CI": "true"}  # Olive sends no telemetry then
    subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=RUN_S, cwd=target.parent, env=environment
    )


def _python(name: str, peer: Peer) -> Path:
    """An interpreter that has the tool."""
    if not peer.packages:
        return Path(sys.executable)
    folder = ROOT / name.split()[0].lower()
    python, uv = folder / "bin/python", [sys.executable, "-m", "uv"]
    if not (folder / "installed").is_file():
        subprocess.run([*uv, "venv", "-q", "--clear", str(folder)], check=True, capture_output=True, text=True)
        install = [*uv, "pip", "install", "-q", *_torch(), "--python", str(python), *peer.packages]
        subprocess.run(install, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        (folder / "installed").touch()
    return python


def _torch() -> list[str]:
    """Where the CPU build of torch comes from, as in scripts/setup; else gigabytes of CUDA would come."""
    wheels = os.environ.get("PIP_FIND_LINKS", "")
    local = wheels and any(Path(wheels).glob("torch-*+cpu-*.whl"))
    return ["--find-links", wheels] if local else ["--torch-backend", "cpu"]
