"""Other servers of the same model, each in an environment of its own below build/bench; skipped where it cannot be.

Each runs on the server's core and does what its documentation shows: load an ONNX model, run it on a request.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from serving import device
from serving.load import SERVER, Call, memory_mb, on, p, throughput, timed
from skerry_proto.v1 import inference_pb2 as pb

ROOT = Path(__file__).parents[3] / "build/bench"
INSTALL_S, START_S = 900, 60
METHOD = "/inference.GRPCInferenceService/ModelInfer"
RUN = """
import os
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
def session():
    return ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
def image(values):
    return {"image": np.asarray(values, np.uint8).reshape(-1, 1, 28, 28)}
"""

KSERVE = """
from kserve import InferOutput, InferResponse, Model, ModelServer
class Bench(Model):
    def load(self):
        self.session, self.ready = session(), True
    def predict(self, payload, headers=None, response_headers=None):
        (scores,) = self.session.run(["scores"], image(payload.inputs[0].as_numpy()))
        output = InferOutput(name="scores", shape=list(scores.shape), datatype="FP32")
        output.set_data_from_numpy(scores, binary_data=True)
        return InferResponse(response_id="1", model_name="bench", infer_outputs=[output])
model = Bench("bench")
model.load()
ModelServer(http_port=int(os.environ["PORT"]) + 1, grpc_port=int(os.environ["PORT"]), workers=1).start([model])
"""

MLSERVER = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
class Bench(MLModel):
    async def load(self):
        self.session = session()
        return True
    async def predict(self, payload):
        (scores,) = self.session.run(["scores"], image(NumpyCodec.decode_input(payload.inputs[0])))
        return InferenceResponse(model_name="bench", outputs=[NumpyCodec.encode_output("scores", scores)])
"""

LITSERVE = """
import litserve
class Bench(litserve.LitAPI):
    def setup(self, device):
        self.session = session()
    def decode_request(self, request):
        return image(request["image"])
    def predict(self, inputs):
        return self.session.run(["scores"], inputs)[0]
    def encode_response(self, scores):
        return {"scores": scores.tolist()}
if __name__ == "__main__":
    litserve.LitServer(Bench()).run(port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")
"""

BENTOML = """
import bentoml
@bentoml.service(workers=1)
class Bench:
    def __init__(self):
        self.session = session()
    @bentoml.api
    def predict(self, image_: list) -> list:
        return self.session.run(["scores"], image(image_))[0].tolist()
"""


@dataclass(frozen=True)
class Peer:
    """A server: what to install, its program, how to start it and to ask."""

    packages: tuple[str, ...]
    program: str
    command: tuple[str, ...]  # of its environment's bin folder
    ask: Callable[[int], Call]
    files: tuple[tuple[str, str], ...] = ()


def run(row: Callable[..., None], model: Path, scale: float) -> dict[str, Any]:
    """Measure each; what failed is told on stderr."""
    found = {}
    for name, peer in PEERS.items():
        try:
            found[name] = _measure(row, name, peer, model, scale)
        except (OSError, subprocess.SubprocessError, RuntimeError, grpc.RpcError, http.client.HTTPException) as error:
            print(f"peer {name}: skipped: {error!r:.300}", file=sys.stderr)
    return found


def _measure(row: Callable[..., None], name: str, peer: Peer, model: Path, scale: float) -> dict[str, float]:
    folder, port = _installed(name, peer), _free_port()
    (folder / "bench.py").write_text(RUN + peer.program)
    for file, text in peer.files:
        (folder / file).write_text(text.replace("$PORT1", str(port + 1)).replace("$PORT", str(port)))
    environment = {**os.environ, "MODEL": str(model), "PORT": str(port), "BENTOML_DO_NOT_TRACK": "true"}
    command = [str(folder / "bin" / peer.command[0]), *(part.replace("$PORT", str(port)) for part in peer.command[1:])]
    start = time.monotonic()
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*on(SERVER), *command], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        call = _first(peer, port, server)
        first_s = time.monotonic() - start
        times = timed(call, max(20, int(2000 * scale)))
        rate = throughput(lambda: peer.ask(port), 8, 3 * scale)
        memory = sum(memory_mb(pid) for pid in _family(server.pid))
        row(name, p(times, 50), p(times, 99), f"{rate:.0f} requests/s, {memory:.0f} MB, first answer {first_s:.1f} s")
        figures = {"p50_us": p(times, 50), "p99_us": p(times, 99), "per_s": rate, "rss_mb": memory, "first_s": first_s}
        return {key: round(value, 2) for key, value in figures.items()}
    finally:
        _end(server)


def _installed(name: str, peer: Peer) -> Path:
    folder = ROOT / name
    if (folder / "installed").exists():
        return folder
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin/pip"), "install", "-q", "numpy", "onnxruntime", *peer.packages]
    subprocess.run(install, check=True, timeout=INSTALL_S, capture_output=True)
    (folder / "installed").touch()
    return folder


def _first(peer: Peer, port: int, server: "subprocess.Popen[bytes]") -> Call:
    until = time.monotonic() + START_S
    while True:
        try:
            call = peer.ask(port)
            call()
        except (OSError, RuntimeError, grpc.RpcError, http.client.HTTPException) as error:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"does not answer: {error!r:.200}") from None
            time.sleep(0.02)
        else:
            return call


def _end(server: "subprocess.Popen[bytes]") -> None:
    for pid in reversed(_family(server.pid)):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue
    server.wait()


def _family(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _grpc(port: int) -> Call:
    tensor = pb.ModelInferRequest.InferInputTensor(name=device.INPUT, datatype="UINT8", shape=[1, 1, 28, 28])
    raw = [device.images(1).tobytes()]
    request = pb.ModelInferRequest(model_name="bench", inputs=[tensor], raw_input_contents=raw).SerializeToString()
    options = [("grpc.use_local_subchannel_pool", 1)]
    method = grpc.insecure_channel(f"127.0.0.1:{port}", options).unary_unary(METHOD, bytes, bytes)
    return lambda: method(request, timeout=10)


def _json(key: str) -> Callable[[int], Call]:
    body, headers = json.dumps({key: device.images(1).ravel().tolist()}), {"Content-Type": "application/json"}

    def connect(port: int) -> Call:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

        def call() -> bytes:
            connection.request("POST", "/predict", body, headers)
            reply = connection.getresponse()
            content = reply.read()
            if reply.status != 200:
                raise RuntimeError(f"{reply.status}: {content[:100]!r}")
            return content

        return call

    return connect


SETTINGS = '{"http_port": $PORT1, "grpc_port": $PORT, "parallel_workers": 0, "metrics_endpoint": null}'
MODEL = '{"name": "bench", "implementation": "bench.Bench"}'
PEERS = {
    "kserve": Peer(("kserve",), KSERVE, ("python", "bench.py"), _grpc),
    "mlserver": Peer(
        ("mlserver",), MLSERVER, ("mlserver", "start", "."), _grpc,
        (("settings.json", SETTINGS), ("model-settings.json", MODEL)),
    ),
    "litserve": Peer(("litserve",), LITSERVE, ("python", "bench.py"), _json("image")),
    "bentoml": Peer(("bentoml",), BENTOML, ("bentoml", "serve", "bench:Bench", "--port", "$PORT"), _json("image_")),
}  # fmt: skip
