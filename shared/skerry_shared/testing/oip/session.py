"""The suite's own clients: as small as they can be, so that what a server really sent can be looked at."""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

import grpc
import numpy as np

from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared.errors import InputError, LinkError, NotFoundError, UsageError
from skerry_shared.testing.oip import tensors
from skerry_shared.testing.oip.core import Broken, Skipped
from skerry_shared.testing.oip.tensors import Array, Query, Spec

SERVICE = "/inference.GRPCInferenceService/"
TIMEOUT_S = 10.0  # for each answer; a server that hangs fails the check
MAX_REPLY = 64 << 20  # bytes
NOBODY = "oip-check-no-such-name"

HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Target:
    """The server: one address or both as "host:port", the model to ask (or the only one), and shapes by input name.

    Shapes are needed only where a free dimension other than the first may not be 1.
    """

    grpc: str = ""
    http: str = ""
    model: str = ""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """What the metadata says."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]


@dataclass(frozen=True)
class Output:
    """An output as it came; ``values`` is flat."""

    datatype: str
    shape: tuple[int, ...]
    values: Array


@dataclass(frozen=True)
class Answer:
    """What came back: ``code`` is gRPC's or HTTP's, ``error`` its text, ``problem`` what is wrong with its form."""

    code: str
    error: str = ""
    problem: str = ""
    id: str = ""
    model: str = ""
    version: str = ""
    outputs: dict[str, Output] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return self.code in ("OK", "200")

    def __str__(self) -> str:
        return f"{self.code}: {self.error[:160]}" if self.error else f"{self.code}, outputs {', '.join(self.outputs)}"


@dataclass(frozen=True)
class HttpReply:
    """Header names are case-insensitive, as ``http.client`` has them."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON. Raises Broken."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise Broken(f"{self.status}, body is no JSON: {self.body[:80]!r}") from None

    @property
    def error(self) -> str:
        """The text of {"error": text}; empty if the body is something else."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return ""
        text = document.get("error") if isinstance(document, dict) else None
        return text if isinstance(text, str) else ""


class Session:
    """One run against one server. Raises LinkError or UsageError where there is nothing to check."""

    def __init__(self, target: Target) -> None:
        if not (target.grpc or target.http):
            raise UsageError("target: needs the address of a gRPC or a REST server")
        self.target = target
        options = [("grpc.max_receive_message_length", MAX_REPLY)]
        self._channel = grpc.insecure_channel(target.grpc, options=options) if target.grpc else None
        self._http: http.client.HTTPConnection | None = None
        self._remembered: dict[object, Any] = {}

    def close(self) -> None:
        """End the connections."""
        if self._channel:
            self._channel.close()
        if self._http:
            self._http.close()

    @cached_property
    def model(self) -> Model:
        """The model to ask, by gRPC if that is there, else by REST. Raises LinkError, NotFoundError or UsageError."""
        name = self.target.model or self._only_model()
        if self._channel:
            message, error = self.call("ModelMetadata", pb.ModelMetadataRequest(name=name), pb.ModelMetadataResponse)
            if error:
                raise _unusable(name, error, error.startswith("UNAVAILABLE"))
            return Model(message.name, tuple(message.versions), _specs(message.inputs), _specs(message.outputs))
        reply = self._reached("GET", f"/v2/models/{quote(name, safe='')}")
        if reply.status != 200:
            raise _unusable(name, f"{reply.status}: {reply.error}", False)
        found = reply.json
        inputs, outputs = (
            tuple(Spec(t["name"], t["datatype"], tuple(t["shape"])) for t in found[k]) for k in ("inputs", "outputs")
        )
        return Model(found["name"], tuple(found.get("versions", ())), inputs, outputs)

    @cached_property
    def extensions(self) -> frozenset[str]:
        """What the server announces."""
        if self._channel:
            found, _ = self.call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
            return frozenset(found.extensions if found else ())
        return frozenset(self.ask("GET", "/v2").json.get("extensions", ()))

    def query(self, examples: int = 1, **changes: Any) -> Query:
        """A request that fits the model."""
        shapes = self.target.shapes
        inputs = tuple(tensors.sample(spec, shapes.get(spec.name), examples) for spec in self.model.inputs)
        return Query(**{"model": self.model.name, "inputs": inputs} | changes)

    def remember(self, key: object, make: Callable[[], Any]) -> Any:
        """What ``make`` gave for this key the first time."""
        if key not in self._remembered:
            self._remembered[key] = make()
        return self._remembered[key]

    def need(self, extension: str) -> None:
        """Raises Skipped unless the server announces it."""
        if extension not in self.extensions:
            raise Skipped(f"the server does not announce {extension!r}")

    def call(self, method: str, request: Any, reply: Any, timeout: float = TIMEOUT_S) -> tuple[Any, str]:
        """The message and "", or None and "CODE: text". Raises Skipped without a gRPC server."""
        if self._channel is None:
            raise Skipped("no gRPC server to ask")
        data = request if isinstance(request, bytes) else request.SerializeToString()
        try:
            ask: Any = self._channel.unary_unary(SERVICE + method)
            return reply.FromString(ask(data, timeout=timeout)), ""
        except grpc.RpcError as error:
            return None, f"{error.code().name}: {error.details()}"

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> HttpReply:
        """A reply on the kept connection. Raises Skipped without a REST server, Broken where there is no reply."""
        with self._connected() as connection:
            connection.request(method, path, body or (b"" if method == "POST" else None), headers or {})
            reply = connection.getresponse()
            return HttpReply(reply.status, reply.headers, reply.read(MAX_REPLY))

    def infer(self, wire: str, query: Query) -> Answer:
        """Ask in one of the forms "grpc-raw", "grpc-typed", "rest-json", "rest-binary"."""
        if wire.startswith("grpc"):
            return self.infer_message(tensors.grpc_request(query, wire == "grpc-raw"))
        body, headers = tensors.rest_request(query, wire == "rest-binary")
        return self.infer_body(body, headers, query)

    def infer_message(self, request: pb.ModelInferRequest) -> Answer:
        """ModelInfer."""
        reply, error = self.call("ModelInfer", request, pb.ModelInferResponse)
        code, _, text = error.partition(": ")
        return Answer(code, text) if error else _from_message(reply)

    def infer_body(self, body: bytes, headers: dict[str, str] | None = None, query: Query | None = None) -> Answer:
        """POST of an inference request."""
        name, version = (query.model, query.version) if query else (self.model.name, "")
        path = f"/v2/models/{quote(name, safe='')}{f'/versions/{quote(version, safe=str())}' if version else ''}/infer"
        reply = self.ask("POST", path, body, headers)
        if reply.status != 200:
            return Answer(str(reply.status), reply.error, "" if reply.error else "the body is no {'error': text}")
        return _from_reply(reply)

    @contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        if not self.target.http:
            raise Skipped("no REST server to ask")
        if self._http is None:
            self._http = http.client.HTTPConnection(self.target.http, timeout=TIMEOUT_S)
        try:
            yield self._http
        except (OSError, http.client.HTTPException) as error:
            self._http.close()
            raise Broken(f"no reply: {type(error).__name__}: {error}") from None

    def _reached(self, method: str, path: str) -> HttpReply:
        try:
            return self.ask(method, path)
        except Broken as error:
            raise LinkError(f"{self.target.http}: {error}") from None

    def _only_model(self) -> str:
        """The name of the one model that the repository's index has. Raises UsageError or LinkError."""
        if self._channel:
            index, error = self.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
            if error.startswith("UNAVAILABLE"):
                raise LinkError(f"{self.target.grpc}: {error}")
            names = {entry.name for entry in index.models} if index else set()
        else:
            reply = self._reached("POST", "/v2/repository/index")
            names = {entry["name"] for entry in reply.json} if reply.status == 200 else set()
        if len(names) != 1:
            found = f"the server has {', '.join(sorted(names))}" if names else "the server does not tell its models"
            raise UsageError(f"model: name the one to ask; {found}")
        return str(names.pop())


def _unusable(name: str, error: str, away: bool) -> Exception:
    return LinkError(error) if away else NotFoundError(f"model {name!r}: no metadata: {error}")


def _specs(found: Any) -> tuple[Spec, ...]:
    return tuple(Spec(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in found)


def _from_message(reply: pb.ModelInferResponse) -> Answer:
    raw, outputs, problem = reply.raw_output_contents, {}, ""
    if raw and len(raw) != len(reply.outputs):
        problem = f"{len(raw)} raw_output_contents for {len(reply.outputs)} outputs"
    for i, output in enumerate(reply.outputs):
        typed = [value for _, values in output.contents.ListFields() for value in values]
        if typed and raw:
            problem = f"output {output.name!r}: typed contents beside raw ones"
        values, wrong = _values(output.datatype, raw[i] if raw and not problem else np.array(typed))
        outputs[output.name] = Output(output.datatype, tuple(output.shape), values)
        problem = problem or wrong
    return Answer("OK", "", problem, reply.id, reply.model_name, reply.model_version, outputs)


def _from_reply(reply: HttpReply) -> Answer:
    try:
        return _parsed(reply)
    except (ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        return Answer("200", "", f"not an inference response: {type(error).__name__}: {error}")


def _parsed(reply: HttpReply) -> Answer:
    length = int(reply.headers.get(HEADER_LENGTH, len(reply.body)))
    head, binary, outputs, problem = json.loads(reply.body[:length]), reply.body[length:], {}, ""
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None and "data" in output:
            problem = f"output {output['name']!r}: data beside binary data"
        part = np.array(output["data"]).ravel() if size is None else binary[:size]
        binary = binary[size or 0 :]
        values, wrong = _values(output["datatype"], part)
        outputs[output["name"]] = Output(output["datatype"], tuple(output["shape"]), values)
        problem = problem or wrong
    if binary:
        problem = problem or f"{len(binary)} bytes that belong to no output"
    answer = (head.get("id", ""), head.get("model_name", ""), head.get("model_version", ""))
    return Answer("200", "", problem, *answer, outputs)


def _values(datatype: str, data: bytes | Array) -> tuple[Array, str]:
    """Flat values, and what is wrong with them."""
    try:
        return (tensors.from_raw(datatype, data) if isinstance(data, bytes) else data), ""
    except (ValueError, KeyError) as error:
        return np.array([]), f"not contents of {datatype!r}: {error}"
