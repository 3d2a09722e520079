"""A device's folder with one small network installed, as enrolment and an update leave it; for benchmarks."""

import os
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from skerry_edge.config import Folders, WorkloadFolder
from skerry_edge.update.slots import Slots
from skerry_shared import bundle, identity, signing, sketch, wire
from skerry_shared.bundle import Golden
from skerry_shared.release import ANY, Assignment, Lineage, Manifest, Measured, Target, TensorSpec
from skerry_shared.sealing import IngestKey

INPUT, SIZE, CLASSES = "image", 28, 10
WIDTHS = (16, 32, 64, 112)  # channels; with 3×3 convolutions about 100,000 parameters
Array = NDArray[Any]


@dataclass(frozen=True)
class Device:
    """An enrolled folder that serves release 1, and who speaks for its cloud."""

    folders: Folders
    authority: identity.Authority
    director: Ed25519PrivateKey

    @property
    def model(self) -> Path:
        """The model file of release 1."""
        return self.workload.root / "a" / "model.onnx"

    @property
    def workload(self) -> WorkloadFolder:
        """Where the network's bundles lie."""
        return self.folders.workload("bench")

    def assignment(self, release: int) -> bytes:
        """Put a release into the spare slot, as if it were fetched; the signed word to install it."""
        data, manifest = make_bundle(release)
        sha256, path = bundle.digest(data), f"bench/{release}/generic-x86-64.bundle"
        Slots(self.workload.root).fill(data, sha256)
        issued = int(time.time())
        assignment = Assignment(
            fleet="bench", device="bench", counter=release, issued=issued, expires=issued + 3600, rollout=release,
            workload="bench", release=release, path=path, sha256=sha256, length=len(data), target=manifest.target,
        )  # fmt: skip
        return wire.encode(signing.sign(assignment, self.director))


def make(folder: Path, settings: str = "", authority: identity.Authority | None = None) -> Device:
    """Enrol and install. ``settings``: further lines of agent.toml."""
    authority = authority or identity.Authority.new("bench", now())
    made = Device(Folders(folder), authority, Ed25519PrivateKey.generate())
    _enrol(made, settings)
    data, manifest = make_bundle(1)
    slots, sha256 = Slots(made.workload.root), bundle.digest(data)
    slots.switch(slots.fill(data, sha256), manifest.workload, manifest.release, sha256)
    return made


def make_bundle(release: int) -> tuple[bytes, Manifest]:
    """The bundle's bytes and its manifest; another release has other weights."""
    model, inputs = network(release), {INPUT: images(8)}
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    scores, monitors = session.run(["scores", "monitors"], inputs)
    values = sketch.channel_values(scores, monitors)
    manifest = Manifest(
        workload="bench", release=release, owner="bench", labels=tuple(map(str, range(CLASSES))),
        inputs=(TensorSpec(INPUT, "uint8", (ANY, 1, SIZE, SIZE)),),
        outputs=(TensorSpec("scores", "float32", (ANY, CLASSES)), TensorSpec("monitors", "float32", (ANY, 1))),
        target=Target("generic-x86-64", os.uname().machine, "onnxruntime", "float32"),
        measured=Measured(len(model), 0.05, 1.0, 0.0), lineage=Lineage(1, "00", release, "bench"),
        baseline=sketch.baseline(sketch.channel_names(["brightness"]), values, CLASSES),
        tolerance=1e-4, model_file="model.onnx",
    )  # fmt: skip
    return bundle.pack(manifest, model, Golden(inputs, {"scores": scores, "monitors": monitors})), manifest


def now() -> datetime:
    """Of certificates."""
    return datetime.now(timezone.utc)


def images(count: int, seed: int = 0) -> Array:
    """Uint8 [count, 1, 28, 28]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 1, SIZE, SIZE), dtype=np.uint8)


def network(release: int) -> bytes:
    """A CNN of four convolutions: uint8 [*, 1, 28, 28] → scores [*, 10] and monitors [*, 1] (mean brightness).

    Releases differ by the scale of their weights: other scores, the same classes, so that each proves itself.
    """
    draw, constants, nodes = np.random.default_rng(0), dict[str, Array](), list[Any]()

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(name: str, *shape: int) -> str:
        scale = (1 + release / 1000) * np.sqrt(2 / np.prod(shape[1:]))
        constants[name] = draw.normal(0, scale, shape).astype(np.float32)
        return name

    x = floats = add("Cast", [INPUT], "floats", to=TensorProto.FLOAT)
    constants |= {"grey": np.array(255, np.float32), "plane": np.array([2, 3]), "picture": np.array([1, 2, 3])}
    x, before = add("Div", [x, "grey"], "scaled"), 1
    for i, width in enumerate(WIDTHS):
        weights = constant(f"weights{i}", width, before, 3, 3)
        x = add("Conv", [x, weights], f"convolved{i}", pads=[1] * 4, strides=[1 + (i > 0)] * 2)
        x, before = add("Relu", [x], f"active{i}"), width
    pooled = add("ReduceMean", [x, "plane"], "pooled", keepdims=0)
    logits = add("MatMul", [pooled, constant("head", before, CLASSES)], "logits")
    add("Softmax", [logits], "scores", axis=1)
    mean = add("ReduceMean", [floats, "picture"], "mean")
    constants["row"] = np.array([-1, 1])
    add("Reshape", [mean, "row"], "monitors")
    return _model(nodes, constants)


def _model(nodes: list[Any], constants: dict[str, Array]) -> bytes:
    image = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["n", 1, SIZE, SIZE])
    shapes = {"scores": CLASSES, "monitors": 1}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in shapes.items()]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "bench", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _enrol(device: Device, settings: str) -> None:
    folders, authority = device.folders, device.authority
    for path in (folders.identity, device.workload.root):
        path.mkdir(parents=True)
    key = identity.new_key()
    folders.certificate.write_bytes(authority.sign_request(identity.request("bench", key), "bench", now(), 30))
    folders.key.write_bytes(identity.private_pem(key))
    folders.key.chmod(0o600)
    folders.authority.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    folders.director.write_bytes(signing.public_pem(device.director.public_key()))
    folders.ingest.write_bytes(IngestKey.new().public_bytes())
    folders.trust_root.write_bytes(b"{}")
    where = "" if "gateway" in settings else 'gateway = "127.0.0.1:9"\n'
    folders.config.write_text(
        'fleet = "bench"\ndevice = "bench"\nprofile = "generic-x86-64"\nrepository = "https://127.0.0.1:9/tuf"\n'
        + where
        + settings
    )
