"""Other drift detectors, each in an environment of its own below build/bench-drift; skipped where it cannot be.

What a peer says of the same streams is kept there, so that a run which was interrupted, or follows a change of Skerry,
goes on with it.
"""

import hashlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from drifting.data import WINDOW, Streams, Values
from skerry_shared.files import write_durably

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "build/bench-drift"
PROGRAM = Path(__file__).with_name("peer.py")
UV = ROOT / ".venv/bin/uv"
PEERS = {
    "river": ["river==0.26.1"],
    "evidently": ["evidently==0.7.23", "pandas<3"],
    "frouros": ["frouros==0.9.0"],
    "alibi_detect": ["alibi-detect==0.13.0"],
}
DATA = {"openoa": "openoa==3.2", "nannyml": "nannyml==0.13.1"}  # wheels that hold data, unpacked and never imported
SECONDS = 1800  # for one peer on one case
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def install() -> list[str]:
    """The peers that are here or could be installed."""
    for name, wheel in DATA.items():
        target = FOLDER / "data" / name
        if not target.is_dir():
            _uv(name, "pip", "install", "-q", "--no-deps", "--target", str(target), wheel)
    return [name for name, packages in PEERS.items() if _python(name).exists() or _install(name, packages)]


def scores(name: str, streams: Streams) -> dict[str, Values]:
    """Of each of the peer's detectors: quiet and changed streams × windows. Nothing, with a notice, if it fails."""
    given = io.BytesIO()
    every = np.concatenate([streams.quiet, streams.changed])
    np.savez(given, references=streams.references, streams=every, window=WINDOW)
    out = FOLDER / "scores" / f"{name}-{_digest(name, every, streams.references)}.npz"
    if not out.exists() and not _run(name, given.getvalue(), out):
        return {}
    with np.load(out) as arrays:
        return {f"{name} {detector}": arrays[detector] for detector in arrays.files}


def _run(name: str, given: bytes, out: Path) -> bool:
    """Have the peer write its scores to ``out``, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="skerry-") as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
        source.write_bytes(given)
        command = [str(_python(name)), str(PROGRAM), name, str(source), str(target)]
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=SECONDS, env=os.environ | ONE_THREAD
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            _notice(f"{name} is left out here: {str(getattr(error, 'stderr', '') or error).strip()[-300:]}")
            return False
        write_durably(out, target.read_bytes())
    return True


def _digest(name: str, *arrays: Values) -> str:
    """Of all that decides the scores."""
    parts = (repr(PEERS[name]).encode(), PROGRAM.read_bytes(), *(array.tobytes() for array in arrays))
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _install(name: str, packages: list[str]) -> bool:
    return _uv(name, "venv", "-q", "--python", "3.11", str(FOLDER / name)) and _uv(
        name, "pip", "install", "-q", "--python", str(_python(name)), *packages
    )


def _python(name: str) -> Path:
    return FOLDER / name / "bin/python"


def _uv(name: str, *arguments: str) -> bool:
    done = subprocess.run([str(UV), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        _notice(f"{name} cannot be installed, and is left out: {done.stderr.strip()[-300:]}")
    return done.returncode == 0


def _notice(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
