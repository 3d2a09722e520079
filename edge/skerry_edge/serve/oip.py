"""The Open Inference Protocol v2 over gRPC, so that stock clients of Triton and KServe work unchanged.

A reply is raw if its request was, else typed. Its ``id`` is the request's, or the prediction's where the request had
none; its parameters tell the ``release`` that answered and the ``prediction_id`` for late labels (of several examples
in one request, example i has ".i" behind it). A request's parameters ``timeout`` and ``priority`` and the call's own
deadline say how it is scheduled; ``label:ID`` is the late label of an earlier prediction (see ``truths``); other
parameters are ignored. The messages are in a proto package of our own,
because two copies of package ``inference`` cannot live in one process; only the service's name on the wire is the
protocol's.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from math import prod
from typing import Any, NoReturn

import grpc
from google.protobuf.json_format import ParseDict

from skerry_edge.serve import datatypes, tensors, truths
from skerry_edge.serve.catalog import Catalog, Policy, Prediction, policy_of
from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared.errors import (
    DeadlineError,
    InputError,
    ModelError,
    NotFoundError,
    OverloadError,
    SkerryError,
    StateError,
    UsageError,
)

SERVICE = "inference.GRPCInferenceService"
MAX_MESSAGE = 64 << 20  # bytes of one request or reply
NO_DEADLINE_S = 1e9  # grpcio tells of some 300 years where the client set none
AT_WILL = Policy()
STREAMS = 4  # open at once; each holds a thread of the server

CODES: dict[type[SkerryError], grpc.StatusCode] = {
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    UsageError: grpc.StatusCode.FAILED_PRECONDITION,
    InputError: grpc.StatusCode.INVALID_ARGUMENT,
    StateError: grpc.StatusCode.UNAVAILABLE,
    OverloadError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    ModelError: grpc.StatusCode.INTERNAL,
}


class InferenceService:
    """The calls. Each takes a request and raises SkerryError; ``handlers`` makes gRPC of both."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._streams = threading.BoundedSemaphore(STREAMS)

    def live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """ServerLive: the process answers."""
        return pb.ServerLiveResponse(live=True)

    def ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """ServerReady: the models serve."""
        return pb.ServerReadyResponse(ready=self._catalog.ready)

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """ModelReady: this model, in this version if one is given, serves."""
        return pb.ModelReadyResponse(ready=self._catalog.serves(request.name, request.version))

    def metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """ServerMetadata."""
        return ParseDict(self._catalog.server(), pb.ServerMetadataResponse())

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """ModelMetadata. Raises NotFoundError or StateError."""
        return ParseDict(self._catalog.metadata(request.name, request.version), pb.ModelMetadataResponse())

    def config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """ModelConfig. Raises NotFoundError or StateError."""
        return ParseDict({"config": self._catalog.config(request.name, request.version)}, pb.ModelConfigResponse())

    def statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """ModelStatistics. Raises NotFoundError or StateError."""
        return ParseDict(self._catalog.statistics(request.name, request.version), pb.ModelStatisticsResponse())

    def index(self, _: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """RepositoryIndex."""
        return ParseDict({"models": self._catalog.index()}, pb.RepositoryIndexResponse())

    def load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """RepositoryModelLoad of what serves already. Raises NotFoundError or StateError."""
        self._catalog.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    def unload(self, request: pb.RepositoryModelUnloadRequest) -> NoReturn:
        """RepositoryModelUnload is refused. Raises UsageError, NotFoundError or StateError."""
        self._catalog.unload(request.model_name)
        raise AssertionError("unload returned")

    def infer(self, request: pb.ModelInferRequest, remaining: float | None = None) -> bytes:
        """ModelInfer, to be answered within ``remaining`` seconds: the reply's message, serialized.

        Raises SkerryError as ``Catalog.answer`` does.
        """
        policy = self._heed(request, remaining) if remaining is not None or request.parameters else AT_WILL
        read, write = partial(tensors.inputs_of, request), partial(_reply, request)
        return self._catalog.answer(request.model_name, request.model_version, read, write, policy)

    def _heed(self, request: pb.ModelInferRequest, remaining: float | None) -> Policy:
        """What its parameters say. Labels among them count, whatever becomes of the request."""
        parameters = _parameters(request)
        if brought := truths.among(parameters):
            self._catalog.learn(brought)
        return policy_of(remaining, parameters)

    def stream(self, requests: Iterator[pb.ModelInferRequest]) -> Iterator[pb.ModelStreamInferResponse]:
        """ModelStreamInfer: answers one after the other; an error ends its request only. Raises OverloadError."""
        with self._place():
            for request in requests:
                try:
                    reply = pb.ModelInferResponse.FromString(self.infer(request))
                    yield pb.ModelStreamInferResponse(infer_response=reply)
                except SkerryError as error:
                    about = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
                    yield pb.ModelStreamInferResponse(error_message=str(error), infer_response=about)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._streams.acquire(blocking=False):
            raise OverloadError(f"{STREAMS} streams are open already; use one of them, or single calls")
        try:
            yield
        finally:
            self._streams.release()


def handlers(catalog: Catalog) -> grpc.GenericRpcHandler:
    """The service as a handler for ``grpc.Server.add_generic_rpc_handlers``."""
    service = InferenceService(catalog)
    methods = {
        "ServerLive": unary(service.live, pb.ServerLiveRequest),
        "ServerReady": unary(service.ready, pb.ServerReadyRequest),
        "ModelReady": unary(service.model_ready, pb.ModelReadyRequest),
        "ServerMetadata": unary(service.metadata, pb.ServerMetadataRequest),
        "ModelMetadata": unary(service.model_metadata, pb.ModelMetadataRequest),
        "ModelConfig": unary(service.config, pb.ModelConfigRequest),
        "ModelStatistics": unary(service.statistics, pb.ModelStatisticsRequest),
        "RepositoryIndex": unary(service.index, pb.RepositoryIndexRequest),
        "RepositoryModelLoad": unary(service.load, pb.RepositoryModelLoadRequest),
        "RepositoryModelUnload": unary(service.unload, pb.RepositoryModelUnloadRequest),
        "ModelInfer": _infer(service),
        "ModelStreamInfer": _stream(service),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


def unary(call: Callable[[Any], Any], request: Any, codes: Mapping[type[SkerryError], grpc.StatusCode] = CODES) -> Any:
    """A unary gRPC method of a plain function; its SkerryErrors become status codes."""

    def handle(message: Any, context: grpc.ServicerContext) -> Any:
        try:
            return call(message)
        except SkerryError as error:
            abort(context, error, codes)

    return grpc.unary_unary_rpc_method_handler(handle, request.FromString, _serialized)


def abort(
    context: grpc.ServicerContext, error: SkerryError, codes: Mapping[type[SkerryError], grpc.StatusCode]
) -> NoReturn:
    """End the call with the error's status code."""
    code = next((codes[kind] for kind in type(error).mro() if kind in codes), grpc.StatusCode.INTERNAL)
    context.abort(code, str(error))
    raise AssertionError("abort returned")


def _infer(service: InferenceService) -> Any:
    def handle(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> bytes:
        try:
            remaining = context.time_remaining()
            return service.infer(request, remaining if remaining < NO_DEADLINE_S else None)
        except SkerryError as error:
            abort(context, error, CODES)

    return grpc.unary_unary_rpc_method_handler(handle, pb.ModelInferRequest.FromString)


def _stream(service: InferenceService) -> Any:
    def handle(requests: Any, context: grpc.ServicerContext) -> Iterator[pb.ModelStreamInferResponse]:
        try:
            yield from service.stream(requests)
        except SkerryError as error:
            abort(context, error, CODES)

    return grpc.stream_stream_rpc_method_handler(handle, pb.ModelInferRequest.FromString, _serialized)


def _serialized(reply: Any) -> bytes:
    data: bytes = reply.SerializeToString()
    return data


def _parameters(request: pb.ModelInferRequest) -> dict[str, object]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for name, value in request.parameters.items()
    }


def _reply(request: pb.ModelInferRequest, prediction: Prediction) -> bytes:
    """Serialized in parts: a message's bytes one after the other are the messages merged (protobuf's encoding guide,
    "Last One Wins"), so that what all replies have in common is serialized once."""
    manifest, own_id = prediction.manifest, prediction.prediction_id.encode()
    wanted, arrays = request.outputs, prediction.outputs
    arrays = datatypes.chosen(arrays, [output.name for output in wanted]) if wanted else arrays
    form = tuple([(name, array.dtype, array.shape) for name, array in arrays.items()])
    raw = request.raw_input_contents or tensors.travels_raw(form)
    head, before = _common(manifest.workload, manifest.release, len(own_id), form if raw else ())
    parts = [head.replace(bytes(len(own_id)), own_id)]
    if request.id:
        parts.append(_serialized(pb.ModelInferResponse(id=request.id)))
    if raw:
        for field, array in zip(before, arrays.values(), strict=True):
            parts += (field, datatypes.raw(array))
    else:
        parts.append(_serialized(tensors.typed(form, arrays.values())))
    return b"".join(parts)


@lru_cache
def _common(workload: str, release: int, digits: int, form: tensors.Form) -> tuple[bytes, list[bytes]]:
    """What replies with these outputs as raw values have in common, with a NUL for each character of the prediction's
    id, and what goes before the values of each output."""
    nobody = "\0" * digits
    common = pb.ModelInferResponse(model_name=workload, model_version=str(release), id=nobody)
    common.parameters["release"].int64_param = release
    common.parameters["prediction_id"].string_param = nobody
    tensors.describe(common, form)
    return _serialized(common), [tensors.raw_field(prod(shape) * dtype.itemsize) for _, dtype, shape in form]
