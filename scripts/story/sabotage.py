"""What an attacker, or a bad day, does to a release. All of it must be stopped."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import helper
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets


@contextmanager
def wrong_answers(run: Path) -> Iterator[None]:
    """An insider swaps the classes of a run's models and records golden answers to match: every signature will hold."""
    kept = run.with_name(f"{run.name}.kept")
    shutil.copytree(run, kept)
    try:
        for variant in (run / "variants").iterdir():
            _swap_classes(variant / "model.onnx")
            golden = variant / "golden" / "out" / "scores.npy"
            np.save(golden, np.roll(np.load(golden), 1, axis=1))
        yield
    finally:
        shutil.rmtree(run)
        kept.rename(run)


@contextmanager
def flipped_bit(repository: Path, workload: str, release: int) -> Iterator[None]:
    """A disk or a middleman changes one bit of every bundle of a release."""
    files = list((repository / "targets" / workload / str(release)).iterdir())
    kept = {file: file.read_bytes() for file in files}
    try:
        for file, content in kept.items():
            changed = bytearray(content)
            changed[len(changed) // 2] ^= 1
            file.write_bytes(changed)
        yield
    finally:
        for file, content in kept.items():
            file.write_bytes(content)


@contextmanager
def strangers_signature(repository: Path, workload: str) -> Iterator[None]:
    """A stranger who holds the web server signs a workload's newest metadata with a key of his own."""
    newest = max(
        (repository / "metadata").glob(f"*.models-{workload}.json"), key=lambda file: int(file.name.partition(".")[0])
    )
    kept = newest.read_bytes()
    metadata: Metadata[Targets] = Metadata.from_bytes(kept)
    metadata.signatures.clear()
    metadata.sign(CryptoSigner(Ed25519PrivateKey.generate()))
    try:
        newest.write_bytes(metadata.to_bytes())
        yield
    finally:
        newest.write_bytes(kept)


def _swap_classes(path: Path) -> None:
    model = onnx.load(path)
    output = next(value for value in model.graph.output if value.name == "scores")
    classes = output.type.tensor_type.shape.dim[1].dim_value
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == "scores":
                node.output[place] = "honest_scores"
        for place, name in enumerate(node.input):
            if name == "scores":
                node.input[place] = "honest_scores"
    order = helper.make_tensor("order", onnx.TensorProto.INT64, [classes], list(np.roll(np.arange(classes), 1)))
    model.graph.initializer.append(order)
    model.graph.node.append(helper.make_node("Gather", ["honest_scores", "order"], ["scores"], axis=1))
    onnx.save(model, path)
