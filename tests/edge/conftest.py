"""A whole release in miniature: a model of three classes on 2×2 pictures, its bundles, and who signs for them."""

import hashlib
import platform
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from skerry_edge.adapters.runtime_onnx import OnnxRuntime
from skerry_edge.infer.engine import Active, Engine
from skerry_edge.infer.models import load_model
from skerry_shared import bundle, identity, signing, sketch, wire
from skerry_shared.bundle import Golden
from skerry_shared.release import ANY, Assignment, Field, Lineage, Manifest, Measured, Target, TensorSpec

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
    folder: Path, release: int = 1, weights: np.ndarray[Any, Any] = WEIGHTS, spoil: float = 0.0, workload: str = "tiny"
) -> tuple[bytes, Manifest]:
    """A bundle's bytes and its manifest; ``spoil`` is added to its golden scores."""
    path = folder / f"{release}.onnx"
    path.write_bytes(model_bytes(weights))
    inputs = {"image": pictures(8)}
    outputs: dict[str, Any] = dict(OnnxRuntime().load(path, 1).run(inputs))
    values = sketch.channel_values(outputs["scores"], outputs["monitors"])
    manifest = Manifest(
        workload=workload,
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


def make_patients(folder: Path, release: int, fields: tuple[Field, ...]) -> tuple[bytes, Manifest]:
    """The same of a model of rows, which goes by the third value's sign alone; and what may be kept of a row."""
    manifest = make_release(folder, release)[1]
    nodes = [
        helper.make_node("MatMul", ["row", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
        helper.make_node("ReduceMean", ["row", "axes"], ["monitors"], keepdims=1),
    ]
    weights = np.outer([0, 0, 1, 0], [1, -1, 0]).astype(np.float32)
    constants = {"weights": weights, "axes": np.array([1])}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
              for name, width in (("row", 4), ("scores", 3), ("monitors", 1))]  # fmt: skip
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "patients", values[:1], values[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = folder / f"patients-{release}.onnx"
    path.write_bytes(model.SerializeToString())
    inputs = {"row": np.ones((8, 4), np.float32)}
    golden = Golden(inputs, dict(OnnxRuntime().load(path, 1).run(inputs)))
    manifest = replace(manifest, inputs=(TensorSpec("row", "float32", (ANY, 4)),), fields=fields)
    return bundle.pack(manifest, path.read_bytes(), golden), manifest


def make_assignment(
    data: bytes, release: int = 1, counter: int = 1, workload: str = "tiny", **changes: Any
) -> Assignment:
    assignment = Assignment(
        fleet="harbour",
        device="pump-7",
        counter=counter,
        issued=1000,
        expires=100_000,
        rollout=1,
        workload=workload,
        release=release,
        path=f"{workload}/{release}/generic-x86-64.bundle",
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
    """Makes bundles: release(number, weights, spoil, workload) → (bytes, manifest)."""
    return lambda *args, **kwargs: make_release(tmp_path, *args, **kwargs)


@pytest.fixture
def patients(tmp_path: Path) -> Callable[..., tuple[bytes, Manifest]]:
    """Makes bundles of a model of rows: patients(number, fields) → (bytes, manifest)."""
    return lambda *args: make_patients(tmp_path, *args)


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


Routes = dict[tuple[str, str], Callable[[bytes], tuple[int, bytes]]]  # (method, path): body → (status, reply)


class Cloud:
    """An HTTPS server with a certificate of its own authority; answers by ``routes``, else with files of ``folder``."""

    def __init__(self, folder: Path, hosts: tuple[str, ...] = ("127.0.0.1",)) -> None:
        self.folder, self.routes, self.cut = folder, Routes(), 0
        self.requests: list[str] = []
        now = datetime.now(timezone.utc)
        self.authority = identity.Authority.new("harbour", now)
        self.authority_pem = self.authority.certificate.public_bytes(serialization.Encoding.PEM)
        self.tls = self._tls(folder, hosts, now)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        self.requests.append(path)
        if (method, path) in self.routes:
            return self.routes[method, path](body)
        file = self.folder / path.lstrip("/")
        return (200, file.read_bytes()) if file.is_file() else (404, b"")

    def _tls(self, folder: Path, hosts: tuple[str, ...], now: datetime) -> ssl.SSLContext:
        key = identity.new_key()
        pem = folder / "server.pem"
        pem.write_bytes(self.authority.issue_server(key, hosts, now, 1) + identity.private_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return context

    def _handler(cloud) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, reply = cloud.answer(
                    self.command, self.path, self.rfile.read(int(self.headers.get("Content-Length", 0)))
                )
                self.send_response(status)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply[: cloud.cut or None])
                self.close_connection = True

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Tests are quiet."""

        return Handler


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    folder = tmp_path / "cloud"
    folder.mkdir()
    served = Cloud(folder)
    yield served
    served.close()


WORKLOADS = ("tiny", "ear")


class Publisher:
    """A repository with two workloads, as the cloud lays it out; one target of each is there at a time."""

    def __init__(self, folder: Path) -> None:
        self.metadata, self.targets = folder / "tuf/metadata", folder / "tuf/targets"
        self.metadata.mkdir(parents=True)
        models = [f"models-{workload}" for workload in WORKLOADS]
        self.keys = {name: CryptoSigner.generate_ed25519() for name in ("root", "targets", "online", *models)}
        self.expires = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=1)
        root = Root(expires=self.expires, consistent_snapshot=True)
        for role in ("root", "targets", "snapshot", "timestamp"):
            root.add_key(self._key(role).public_key, role)
        self.root = self.write("root", Metadata(root))
        roles = {f"models-{w}": DelegatedRole(f"models-{w}", [], 1, True, [f"{w}/*/*"]) for w in WORKLOADS}
        targets = Targets(expires=self.expires, delegations=Delegations({}, roles))
        for name in models:
            targets.add_key(self.keys[name].public_key, name)
        self.write("targets", Metadata(targets))
        self.version, self.listed = 0, dict[str, MetaFile]()

    def publish(self, path: str, data: bytes, expires: datetime | None = None) -> None:
        self.version += 1
        file = self.targets / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_name(f"{hashlib.sha256(data).hexdigest()}.{file.name}").write_bytes(data)
        listed = {path: TargetFile.from_data(path, data, ["sha256"])}
        role = f"models-{path.partition('/')[0]}"
        self.write(role, Metadata(Targets(self.version, expires=self.expires, targets=listed)))
        self.listed[f"{role}.json"] = MetaFile(self.version)
        meta = {"targets.json": MetaFile(1), **self.listed}
        self.write("snapshot", Metadata(Snapshot(self.version, expires=self.expires, meta=meta)))
        newest = MetaFile(self.version)
        timestamp = Timestamp(self.version, expires=expires or self.expires, snapshot_meta=newest)
        self.write("timestamp", Metadata(timestamp))

    def write(self, role: str, metadata: Metadata[Any]) -> bytes:
        metadata.sign(self._key(role))
        name = "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
        (self.metadata / name).write_bytes(metadata.to_bytes())
        return metadata.to_bytes()

    def _key(self, role: str) -> CryptoSigner:
        return self.keys[role] if role in self.keys else self.keys["online"]


@pytest.fixture
def publisher(cloud: Cloud) -> Publisher:
    return Publisher(cloud.folder)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def tiny(engine: Engine, release: Callable[..., tuple[bytes, Manifest]], tmp_path: Path) -> bundle.Bundle:
    """The miniature model as release 5, served by ``engine``."""
    unpacked = bundle.unpack(release(5)[0], tmp_path / "unpacked")
    engine.swap(Active(unpacked.manifest, load_model(unpacked, 1), lambda *_: None))
    return unpacked


@pytest.fixture
def ports(engine: Engine) -> Iterator[dict[str, int]]:
    """Of the inference protocol's servers before ``engine``: grpc and http."""
    from skerry_edge.serve import listen, oip
    from skerry_edge.serve.catalog import Catalog

    place, models = listen.Place("127.0.0.1"), Catalog(engine)
    server, port = listen.grpc_server(place, 0, oip.handlers(models))
    http = listen.http_server(place, 0, models)
    yield {"grpc": port, "http": http.port}
    server.stop(None).wait()
    http.stop(0)
