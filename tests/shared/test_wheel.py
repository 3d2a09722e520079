"""The wheel as users get it: in a bare environment, with what `skerry[edge]` alone may bring."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
HEAVY = {"torch", "onnx", "pyarrow", "deltalake", "sqlalchemy", "scikit-learn", "scipy"}

LOADED = """
import json, sys
import skerry_edge.cli, skerry_edge
try:
    skerry_edge.cli.main(["--help"])
except SystemExit:
    pass
print()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment that has the wheel and its [edge] extra, nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    (wheel,) = folder.glob("skerry-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv/bin/python"
    uv = Path(sys.executable).with_name("uv")
    if uv.exists():
        run(str(uv), "pip", "install", "-q", "--python", str(python), f"{wheel}[edge]")
    else:
        run(sys.executable, "-m", "pip", "--python", str(python), "install", "-q", f"{wheel}[edge]")
    return python


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_edge_brings_nothing_heavy(bare: Path) -> None:
    names = "import importlib.metadata as m, json; print(json.dumps([d.name.lower() for d in m.distributions()]))"
    installed = set(json.loads(run(str(bare), "-c", names)))
    assert "skerry" in installed and "onnxruntime" in installed
    assert not installed & HEAVY


def test_help_loads_no_runtime(bare: Path) -> None:
    loaded = set(json.loads(run(str(bare), "-c", LOADED).strip().splitlines()[-1]))
    assert "skerry_edge" in loaded
    assert not loaded & {"torch", "onnx", "pyarrow", "onnxruntime", "grpc", "tuf", "paho"}


def test_profiles_and_schemas_are_in_the_wheel(bare: Path) -> None:
    known = run(str(bare), "-c", "from skerry_shared import profiles; print(*profiles.names())").split()
    assert known == sorted(file.stem for file in (ROOT / "devices").glob("*.toml"))
    where = "import skerry_proto.v1 as p, pathlib; print(*[f.name for f in pathlib.Path(p.__file__).parent.iterdir()])"
    assert {"release.proto", "release_pb2.py", "release_pb2.pyi"} <= set(run(str(bare), "-c", where).split())


def test_the_agent_starts_to_explain_itself(bare: Path) -> None:
    said = run(str(bare.with_name("skerry-agent")), "--help")
    assert "enroll" in said and "doctor" in said
