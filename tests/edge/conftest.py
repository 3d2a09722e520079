"""A whole release in miniature: a model of three classes on 2×2 pictures, its bundles, and who signs for them."""

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from skerry_edge.adapters.runtime_onnx import OnnxRuntime
from skerry_shared import bundle, signing, sketch, wire
from skerry_shared.bundle import Golden
from skerry_shared.release import ANY, Assignment, Lineage, Manifest, Measured, Target, TensorSpec

TARGET = Target("generic-x86-64", platform.machine(), "onnxruntime", "float32", 1 << 20)
LABELS = ("left", "right", "none")


def model_bytes(weights: np.ndarray[Any, Any]) -> bytes:
    """uint8 [*, 2, 2] → scores [*, 3] (softmax of a linear map) and monitors [*, 1] (mean brightness)."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "flat_shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
        helper.make_node("ReduceMean", ["flat", "axes"], ["monitors"], keepdims=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 2, 2])
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3]),
        helper.make_tensor_value_info("monitors", TensorProto.FLOAT, ["n", 1]),
    ]
    constants = {"weights": weights.astype(np.float32), "flat_shape": np.array([-1, 4]), "axes": np.array([1])}
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


WEIGHTS = np.array([[1, -1, 0], [-1, 1, 0], [1, -1, 0], [-1, 1, 0]]) / 255


def pictures(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 2), dtype=np.uint8)


def make_release(
    folder: Path, release: int = 1, weights: np.ndarray[Any, Any] = WEIGHTS, spoil: float = 0.0
) -> tuple[bytes, Manifest]:
    """A bundle's bytes and its manifest; ``spoil`` is added to its golden scores."""
    path = folder / f"{release}.onnx"
    path.write_bytes(model_bytes(weights))
    inputs = {"image": pictures(8)}
    outputs: dict[str, Any] = dict(OnnxRuntime().load(path, 1).run(inputs))
    values = sketch.channel_values(outputs["scores"], outputs["monitors"])
    manifest = Manifest(
        workload="tiny",
        release=release,
        owner="tests",
        labels=LABELS,
        inputs=(TensorSpec("image", "uint8", (ANY, 2, 2)),),
        outputs=(TensorSpec("scores", "float32", (ANY, 3)), TensorSpec("monitors", "float32", (ANY, 1))),
        target=TARGET,
        measured=Measured(path.stat().st_size, 0.01, 1.0, 0.0),
        lineage=Lineage(1, "00", 1, "unknown"),
        baseline=sketch.baseline(sketch.channel_names(["brightness"]), values, len(LABELS)),
        tolerance=1e-4,
        model_file="model.onnx",
    )
    golden = Golden(inputs, outputs | {"scores": outputs["scores"] + np.float32(spoil)})
    return bundle.pack(manifest, path.read_bytes(), golden), manifest


def make_assignment(data: bytes, release: int = 1, counter: int = 1, **changes: Any) -> Assignment:
    assignment = Assignment(
        fleet="harbour",
        device="pump-7",
        counter=counter,
        issued=1000,
        expires=100_000,
        rollout=1,
        workload="tiny",
        release=release,
        path=f"tiny/{release}/generic-x86-64.bundle",
        sha256=bundle.digest(data),
        length=len(data),
        target=TARGET,
    )
    return replace(assignment, **changes)


@pytest.fixture(scope="session")
def director() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., tuple[bytes, Manifest]]:
    """Makes bundles: release(number, weights, spoil) → (bytes, manifest)."""
    return lambda *args, **kwargs: make_release(tmp_path, *args, **kwargs)


@pytest.fixture
def assign(director: Ed25519PrivateKey) -> Callable[..., bytes]:
    """Makes signed assignments as they arrive: assign(bundle, release, counter, **changes) → bytes."""

    def make(data: bytes, *args: Any, key: Ed25519PrivateKey = director, **changes: Any) -> bytes:
        return wire.encode(signing.sign(make_assignment(data, *args, **changes), key))

    return make


@pytest.fixture
def weights() -> np.ndarray[Any, Any]:
    return WEIGHTS


@pytest.fixture(name="pictures")
def pictures_fixture() -> Callable[..., np.ndarray[Any, Any]]:
    return pictures
