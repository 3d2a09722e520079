"""What a request costs in a gRPC server beside gRPC itself: the agent's handler and the floor's, on the same bytes."""

from collections.abc import Sequence

from serving import minimal
from serving.device import INPUT, SIZE, Device, images
from serving.load import Call
from skerry_edge.config import load
from skerry_edge.infer.engine import Engine
from skerry_edge.infer.engines import Engines
from skerry_edge.infer.models import Loader
from skerry_edge.machine import settings_of
from skerry_edge.protect.guard import Guard
from skerry_edge.serve.catalog import Catalog
from skerry_edge.serve.oip import InferenceService
from skerry_edge.serving import Serving
from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared import bundle

STEPS = {"compute_input": "read the tensors", "compute_infer": "run, observed", "compute_output": "write the reply"}


class Unwatched:
    """Nobody looks at guards here."""

    def watch(self, workload: str, release: int, guard: Guard) -> None: ...
    def forget(self, workload: str) -> None: ...


class Handlers:
    """Both, from a request's bytes to those of the reply."""

    def __init__(self, device: Device) -> None:
        engine, unpacked = Engine(), bundle.load(device.workload.root / "a")
        config = load(device.folders)
        model = Loader(Engines(device.workload.engines), settings_of(config)).known(unpacked)
        serving = Serving(engine, config, lambda *_: None, lambda *_: None, Unwatched(), Unwatched())
        serving.activate(unpacked.manifest, model)
        self._catalog, self._request = Catalog(engine), _request()
        infer, service = minimal.handler(str(device.model)), InferenceService(self._catalog)
        self.floor: Call = lambda: infer(pb.ModelInferRequest.FromString(self._request)).SerializeToString()
        self.ours: Call = lambda: service.infer(pb.ModelInferRequest.FromString(self._request))

    def steps(self) -> Sequence[tuple[str, float]]:
        """Mean microseconds of the agent's steps so far, as its statistics extension counts them."""
        (counted,) = self._catalog.statistics()["model_stats"]
        spent = counted["inference_stats"]
        return [(name, spent[step]["ns"] / spent[step]["count"] / 1e3) for step, name in STEPS.items()]


def _request() -> bytes:
    request = pb.ModelInferRequest(model_name="bench", raw_input_contents=[images(1).tobytes()])
    request.inputs.add(name=INPUT, datatype="UINT8", shape=[1, 1, SIZE, SIZE])
    return request.SerializeToString()
