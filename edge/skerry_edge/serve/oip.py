"""The Open Inference Protocol v2 over gRPC, so that stock clients of Triton and KServe work unchanged.

A reply is raw if its request was, else typed. Its ``id`` is the request's, or the prediction's where the request had
none; its parameters tell the ``release`` that answered and the ``prediction_id`` for late labels (of several examples
in one request, example i has ".i" behind it). The messages are in a proto package of our own, because two copies of
package ``inference`` cannot live in one process; only the service's name on the wire is the protocol's.
"""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

import grpc

from skerry_edge.serve import tensors
from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared import __version__
from skerry_shared.errors import InputError, ModelError, NotFoundError, SkerryError, StateError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.release import Manifest

SERVICE = "inference.GRPCInferenceService"
MAX_MESSAGE = 64 << 20  # bytes of one request or reply

CODES: dict[type[SkerryError], grpc.StatusCode] = {
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    InputError: grpc.StatusCode.INVALID_ARGUMENT,
    StateError: grpc.StatusCode.UNAVAILABLE,
    ModelError: grpc.StatusCode.INTERNAL,
}


class Prediction(Protocol):
    """What the engine answers."""

    @property
    def manifest(self) -> Manifest: ...  # noqa: D102
    @property
    def prediction_id(self) -> str: ...  # noqa: D102
    @property
    def outputs(self) -> Tensors: ...  # noqa: D102


class Engine(Protocol):
    """What answers; raises StateError, InputError or ModelError."""

    @property
    def manifest(self) -> Manifest | None: ...  # noqa: D102
    def predict(self, inputs: Tensors) -> Prediction: ...  # noqa: D102


class InferenceService:
    """The six calls. Each takes a request and raises SkerryError; ``handlers`` makes gRPC of both."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """ServerLive: the process answers."""
        return pb.ServerLiveResponse(live=True)

    def ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """ServerReady: a model serves."""
        return pb.ServerReadyResponse(ready=self._engine.manifest is not None)

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """ModelReady: this model, in this version if one is given, serves."""
        manifest = self._engine.manifest
        return pb.ModelReadyResponse(ready=manifest is not None and _is(manifest, request.name, request.version))

    def metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """ServerMetadata."""
        return pb.ServerMetadataResponse(name="skerry-agent", version=__version__)

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """ModelMetadata. Raises NotFoundError or StateError."""
        manifest = self._manifest(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=manifest.workload,
            versions=[str(manifest.release)],
            platform=f"{manifest.target.runtime}_{manifest.model_file.rpartition('.')[2]}",
            inputs=map(tensors.metadata, manifest.inputs),
            outputs=map(tensors.metadata, manifest.outputs),
        )

    def infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        """ModelInfer. Raises NotFoundError, StateError, InputError or ModelError."""
        self._manifest(request.model_name, request.model_version)
        prediction = self._engine.predict(tensors.inputs_of(request))
        manifest, prediction_id = prediction.manifest, prediction.prediction_id
        response = pb.ModelInferResponse(
            model_name=manifest.workload, model_version=str(manifest.release), id=request.id or prediction_id
        )
        response.parameters["release"].int64_param = manifest.release
        response.parameters["prediction_id"].string_param = prediction_id
        wanted = [output.name for output in request.outputs]
        tensors.add_outputs(response, prediction.outputs, wanted, raw=bool(request.raw_input_contents))
        return response

    def _manifest(self, name: str, version: str) -> Manifest:
        manifest = self._engine.manifest
        if manifest is None:
            raise StateError("no model is installed yet")
        if not _is(manifest, name, version):
            asked = f"{name!r} version {version!r}" if version else repr(name)
            raise NotFoundError(f"model {asked}: not here; this device serves {manifest.workload!r} {manifest.release}")
        return manifest


def handlers(engine: Engine) -> grpc.GenericRpcHandler:
    """The service as a handler for ``grpc.Server.add_generic_rpc_handlers``."""
    service = InferenceService(engine)
    methods = {
        "ServerLive": unary(service.live, pb.ServerLiveRequest),
        "ServerReady": unary(service.ready, pb.ServerReadyRequest),
        "ModelReady": unary(service.model_ready, pb.ModelReadyRequest),
        "ServerMetadata": unary(service.metadata, pb.ServerMetadataRequest),
        "ModelMetadata": unary(service.model_metadata, pb.ModelMetadataRequest),
        "ModelInfer": unary(service.infer, pb.ModelInferRequest),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def unary(call: Callable[[Any], Any], request: Any, codes: Mapping[type[SkerryError], grpc.StatusCode] = CODES) -> Any:
    """A unary gRPC method of a plain function; its SkerryErrors become status codes."""

    def handle(message: Any, context: grpc.ServicerContext) -> Any:
        try:
            return call(message)
        except SkerryError as error:
            abort(context, error, codes)

    return grpc.unary_unary_rpc_method_handler(handle, request.FromString, lambda reply: reply.SerializeToString())


def abort(
    context: grpc.ServicerContext, error: SkerryError, codes: Mapping[type[SkerryError], grpc.StatusCode]
) -> NoReturn:
    """End the call with the error's status code."""
    code = next((codes[kind] for kind in type(error).mro() if kind in codes), grpc.StatusCode.INTERNAL)
    context.abort(code, str(error))
    raise AssertionError("abort returned")


def _is(manifest: Manifest, name: str, version: str) -> bool:
    return name == manifest.workload and version in ("", str(manifest.release))
