"""The Open Inference Protocol v2 over HTTP/REST, with JSON tensors and the binary tensor data extension.

An output comes as binary data where the request asks for it (``binary_data`` of the output, else
``binary_data_output`` of the request), else as JSON. POST /v2/labels, which is our own, takes late labels, {"labels":
{prediction id: label}}; so does a request's parameter ``label:ID``. Every reply that is no success is {"error": text}.
"""

import json
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote

from skerry_edge.serve import datatypes, jsontensors, truths
from skerry_edge.serve.catalog import Catalog, Prediction, policy_of
from skerry_edge.serve.http1 import MAX_BODY, HttpError, Reply, Request, error
from skerry_edge.serve.jsontensors import Document, parameters_of
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

MAX_JSON = 8 << 20  # bytes; as Python objects they take twenty times as many
HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"

STATUSES: dict[type[SkerryError], int] = {
    NotFoundError: 404,
    UsageError: 400,
    InputError: 400,
    StateError: 503,
    OverloadError: 503,
    DeadlineError: 504,
    ModelError: 500,
}

MODEL = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"
Names = Mapping[str, str]
Handler = Callable[[Request, Names], Reply]


class RestService:
    """Answers requests; construct an HttpServer with ``respond``."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = [
            (method, re.compile(path), handler)
            for method, path, handler in (
                ("POST", f"{MODEL}/infer", self._infer),
                ("POST", "/v2/labels", self._label),
                ("GET", "/v2/health/live", self._live),
                ("GET", "/v2/health/ready", self._ready),
                ("GET", "/v2/?", lambda *_: _json(catalog.server())),
                ("GET", "/v2/models/stats", lambda *_: _json(catalog.statistics())),
                ("GET", f"{MODEL}/ready", self._model_ready),
                ("GET", f"{MODEL}/config", lambda _, names: _json(catalog.config(**names))),
                ("GET", f"{MODEL}/stats", lambda _, names: _json(catalog.statistics(**names))),
                ("GET", MODEL, lambda _, names: _json(catalog.metadata(**names))),
                ("POST", "/v2/repository/index", lambda *_: _json(catalog.index())),
                ("POST", "/v2/repository/models/(?P<name>[^/]+)/load", self._load),
                ("POST", "/v2/repository/models/(?P<name>[^/]+)/unload", self._unload),
            )
        ]

    def respond(self, request: Request) -> Reply:
        """Never raises a SkerryError."""
        try:
            return self._respond(request)
        except HttpError as refused:
            return error(refused.status, str(refused))
        except SkerryError as problem:
            status = next((STATUSES[kind] for kind in type(problem).mro() if kind in STATUSES), 500)
            return error(status, str(problem), {"Retry-After": "1"} if status == 503 else None)

    def _respond(self, request: Request) -> Reply:
        path = request.target.partition("?")[0]
        allowed = []
        for method, pattern, handler in self._routes:
            if match := pattern.fullmatch(path):
                if method == request.method:
                    return handler(request, {key: unquote(value or "") for key, value in match.groupdict().items()})
                allowed.append(method)
        if allowed:
            return error(405, f"{path[:200]}: takes {allowed[0]}", {"Allow": ", ".join(allowed)})
        return error(404, f"{path[:200]}: no such path")

    def _live(self, *_: object) -> Reply:
        return _json({"live": True})

    def _ready(self, *_: object) -> Reply:
        if not self._catalog.ready:
            raise StateError("no model is installed yet")
        return _json({"live": True, "ready": True})

    def _model_ready(self, _: Request, names: Names) -> Reply:
        found = self._catalog.metadata(**names)
        return _json({"name": found["name"], "ready": True})

    def _load(self, _: Request, names: Names) -> Reply:
        self._catalog.load(**names)
        return _json({})

    def _unload(self, _: Request, names: Names) -> NoReturn:
        self._catalog.unload(**names)
        raise AssertionError("unload returned")

    def _infer(self, request: Request, names: Names) -> Reply:
        head, binary = _split(request)
        document = jsontensors.parse(head)
        asked = _Asked(document)
        if brought := truths.among(asked.parameters):
            self._catalog.learn(brought)
        return self._catalog.answer(
            names["name"],
            names["version"],
            lambda: jsontensors.inputs_of(document.get("inputs"), binary),
            asked.reply,
            policy_of(None, asked.parameters),
        )

    def _label(self, request: Request, _: Names) -> Reply:
        labels = jsontensors.parse(_split(request)[0]).get("labels")
        self._catalog.learn(truths.checked(list(labels.items()) if isinstance(labels, dict) else ()))
        return _json({})


class _Asked:
    """What an inference request wants back. Raises InputError where it cannot be understood."""

    def __init__(self, document: Document) -> None:
        self._id = jsontensors.text(document, "id", "body") if "id" in document else ""
        self.parameters = parameters_of(document, "body")
        outputs = document.get("outputs", [])
        if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
            raise InputError("outputs: need an array of objects")
        default = self.parameters.get("binary_data_output", False)
        self._binary = {
            jsontensors.text(output, "name", "outputs"): _wants_binary(output, default) for output in outputs
        }
        self._default = _is_true("body", "binary_data_output", default)

    def reply(self, prediction: Prediction) -> Reply:
        """Raises InputError on an unknown output, or one that JSON cannot hold."""
        arrays = datatypes.chosen(prediction.outputs, list(self._binary))
        binary = self._binary or dict.fromkeys(arrays, self._default)
        outputs, parts = jsontensors.outputs_of(arrays, binary)
        manifest = prediction.manifest
        document = {
            "model_name": manifest.workload,
            "model_version": str(manifest.release),
            "id": self._id or prediction.prediction_id,
            "parameters": {"release": manifest.release, "prediction_id": prediction.prediction_id},
            "outputs": outputs,
        }
        head = _dump(document)
        if not parts:
            return Reply(200, [head])
        return Reply(200, [head, *parts], BINARY, {HEADER_LENGTH: str(len(head))})


def _wants_binary(output: Document, default: object) -> bool:
    where = f"output {jsontensors.text(output, 'name', 'outputs')[: datatypes.MAX_NAME]!r}"
    parameters = parameters_of(output, where)
    if unserved := parameters.keys() & {"shared_memory_region", "classification"}:
        raise InputError(f"{where}: {min(unserved)} is not served here")
    return _is_true(where, "binary_data", parameters.get("binary_data", default))


def _is_true(where: str, key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{where}: {key!r} must be true or false")
    return value


def _split(request: Request) -> tuple[memoryview, memoryview]:
    """The JSON of an inference request, and the binary data behind it. Raises InputError or HttpError."""
    body = _plain(request.headers.get("content-encoding", "identity").lower(), request.body)
    length = request.headers.get(HEADER_LENGTH.lower(), str(len(body)))
    if not (length.isascii() and length.isdigit() and int(length[:20]) <= len(body)):
        raise InputError(f"header {HEADER_LENGTH!r}: {length[:40]!r} is no number up to the body's {len(body)} bytes")
    if int(length) > MAX_JSON:
        raise HttpError(413, f"JSON: {length} bytes; at most {MAX_JSON}; send large tensors as binary data")
    return body[: int(length)], body[int(length) :]


def _plain(encoding: str, body: memoryview) -> memoryview:
    """The body without its content coding. Raises InputError or HttpError."""
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise HttpError(415, f"header 'content-encoding': {encoding[:40]!r}; known: gzip, deflate, identity")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # finds gzip's or zlib's head
    try:
        plain = unpacker.decompress(body, MAX_BODY)
    except zlib.error as problem:
        raise InputError(f"body: not {encoding}: {problem}") from None
    if unpacker.unconsumed_tail:
        raise HttpError(413, f"body: more than {MAX_BODY} bytes when unpacked")
    if not unpacker.eof:
        raise InputError(f"body: its {encoding} data is cut off")
    return memoryview(plain)


def _json(document: Any) -> Reply:
    return Reply(200, [_dump(document)])


def _dump(document: Any) -> bytes:
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
