"""What only REST has: HTTP itself, JSON, and the binary tensor data extension."""

import gzip
import json
from collections.abc import Callable
from typing import Any

from skerry_shared.testing.oip import clauses
from skerry_shared.testing.oip.checks._make import Checks
from skerry_shared.testing.oip.core import Skipped, expect
from skerry_shared.testing.oip.session import HEADER_LENGTH, HttpReply, Session
from skerry_shared.testing.oip.tensors import rest_request, to_raw

http, body, binary = Checks("rest.http"), Checks("rest.json"), Checks("rest.binary")


def post(s: Session, data: bytes, headers: dict[str, str] | None = None) -> HttpReply:
    return s.ask("POST", f"/v2/models/{s.model.name}/infer", data, headers)


def head(s: Session) -> dict[str, Any]:
    """The JSON of a right request with JSON tensors."""
    if any(tensor.datatype == "FP16" for tensor in s.model.inputs):
        raise Skipped("FP16 travels raw only")
    return json.loads(rest_request(s.query(), binary=False)[0])  # type: ignore[no-any-return]


def refused(reply: HttpReply) -> str:
    return expect(400 <= reply.status < 500 and reply.error, f"{reply.status}: {reply.body[:120]!r}")


@http.must("unknown-path", "a path that does not exist is 404", clauses.REST)
def _(s: Session) -> str:
    status = s.ask("GET", "/v2/oip-check").status
    return expect(status == 404, f"{status}")


@http.should("method", "GET of an inference path is 405", clauses.REST)
def _(s: Session) -> str:
    status = s.ask("GET", f"/v2/models/{s.model.name}/infer").status
    return expect(status == 405, f"{status}")


@http.must("keep-alive", "a connection carries one request after the other", clauses.HTTP)
def _(s: Session) -> str:
    replies = [s.ask("GET", "/v2") for _ in range(3)]
    closing = [reply.headers.get("Connection", "").lower() == "close" for reply in replies]
    return expect(not any(closing), "kept" if not any(closing) else "the server closes it after each reply")


@http.should("content-type", "JSON is sent as application/json", clauses.REST)
def _(s: Session) -> str:
    found = s.ask("GET", "/v2").headers.get("Content-Type", "")
    return expect(found.startswith("application/json"), f"Content-Type: {found}")


@http.must("escaped", "a model's name may be percent-encoded", clauses.HTTP)
def _(s: Session) -> str:
    name = "".join(f"%{byte:02X}" for byte in s.model.name.encode())
    status = s.ask("GET", f"/v2/models/{name}").status
    return expect(status == 200, f"{status}")


@http.must("no-content-type", "a request needs no Content-Type; stock clients send none", clauses.REST)
def _(s: Session) -> str:
    reply = post(s, json.dumps(head(s)).encode())
    return expect(reply.status == 200, f"{reply.status}: {reply.error}")


@http.must("content-type-json", "Content-Type: application/json does no harm", clauses.REST)
def _(s: Session) -> str:
    reply = post(s, json.dumps(head(s)).encode(), {"Content-Type": "application/json"})
    return expect(reply.status == 200, f"{reply.status}: {reply.error}")


@http.should("gzip", "a compressed request is understood", clauses.HTTP)
def _(s: Session) -> str:
    reply = post(s, gzip.compress(json.dumps(head(s)).encode()), {"Content-Encoding": "gzip"})
    return expect(reply.status == 200, f"{reply.status}: {reply.error}")


WRONG: tuple[tuple[str, str, Callable[[dict[str, Any]], bytes]], ...] = (
    ("empty", "an empty body", lambda _: b""),
    ("cut", "JSON that is cut off", lambda h: json.dumps(h).encode()[:-2]),
    ("not-json", "a body that is no JSON", lambda _: b"inputs: 1"),
    ("not-utf8", "a body that is no UTF-8", lambda _: b'{"inputs": "\xff"}'),
    ("array", "an array instead of an object", lambda h: json.dumps([h]).encode()),
    ("inputs-object", "inputs that are no array", lambda h: json.dumps({"inputs": h["inputs"][0]}).encode()),
    ("input-number", "an input that is no object", lambda _: b'{"inputs": [1]}'),
    ("no-name", "an input without a name", lambda h: _without(h, "name")),
    ("no-shape", "an input without a shape", lambda h: _without(h, "shape")),
    ("no-datatype", "an input without a datatype", lambda h: _without(h, "datatype")),
    ("no-data", "an input without data", lambda h: _without(h, "data")),
    ("shape-text", "a shape that is text", lambda h: _first(h, shape="all")),
    ("data-object", "data that is an object", lambda h: _first(h, data={"a": 1})),
    ("data-null", "data that is null", lambda h: _first(h, data=None)),
    ("outputs-object", "outputs that are no array", lambda h: json.dumps(h | {"outputs": {"name": "a"}}).encode()),
    ("deep", "nesting without end", lambda _: b"[" * 50_000),
)  # fmt: skip


def _first(document: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(document | {"inputs": [document["inputs"][0] | changes, *document["inputs"][1:]]}).encode()


def _without(document: dict[str, Any], key: str) -> bytes:
    first = {name: value for name, value in document["inputs"][0].items() if name != key}
    return json.dumps(document | {"inputs": [first, *document["inputs"][1:]]}).encode()


for _name, _title, _make in WRONG:
    body.must(_name, f"{_title} is refused with 4xx and {{'error': text}}", clauses.REST_ERRORS)(
        lambda s, make=_make: refused(post(s, make(head(s))))  # type: ignore[misc]
    )


@body.must("nested", "data may be nested as the shape is", clauses.REST_REQUEST)
def _(s: Session) -> str:
    document = head(s)
    query = s.query()
    for tensor, given in zip(query.inputs, document["inputs"], strict=True):
        if tensor.datatype == "BYTES":
            raise Skipped("the model takes BYTES")
        given["data"] = tensor.values.reshape(tensor.shape).tolist()
    reply = post(s, json.dumps(document).encode())
    return expect(reply.status == 200, f"{reply.status}: {reply.error}")


@body.should("range", "a value that does not fit its datatype is refused", clauses.REST_REQUEST)
def _(s: Session) -> str:
    document = head(s)
    if document["inputs"][0]["datatype"] not in ("INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32"):
        raise Skipped("the first input takes no small integers")
    document["inputs"][0]["data"][0] = 1 << 40
    return refused(post(s, json.dumps(document).encode()))


@body.must("lives", "after all of these it still answers", clauses.REST_ERRORS)
def _(s: Session) -> str:
    reply = post(s, json.dumps(head(s)).encode())
    return expect(reply.status == 200, f"{reply.status}: {reply.error}")


def packed(s: Session, tail: bytes = b"", cut: int = 0, length: str = "") -> HttpReply:
    """A binary request whose binary part, or header, is spoiled."""
    s.ask("GET", "/v2/health/live")  # Skipped before the question whether it is announced
    s.need("binary_tensor_data")
    data, headers = rest_request(s.query(), binary=True)
    data = data[: len(data) - cut] + tail
    return post(s, data, headers | ({HEADER_LENGTH: length} if length else {}))


@binary.must("header", "a reply with binary data has Inference-Header-Content-Length", clauses.BINARY)
def _(s: Session) -> str:
    reply = packed(s)
    found = reply.headers.get(HEADER_LENGTH, "")
    holds = reply.status == 200 and found.isdigit() and int(found) < len(reply.body)
    return expect(holds, f"{reply.status}, {HEADER_LENGTH}: {found or 'missing'}, body of {len(reply.body)} bytes")


@binary.must("json-out", "without binary_data the outputs of a binary request are JSON", clauses.BINARY)
def _(s: Session) -> str:
    packed(s)
    inputs, parts = [], []
    for tensor in s.query().inputs:
        parts.append(to_raw(tensor.values))
        inputs.append({"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape),
                       "parameters": {"binary_data_size": len(parts[-1])}})  # fmt: skip
    data = json.dumps({"inputs": inputs}).encode()
    reply = post(s, b"".join([data, *parts]), {HEADER_LENGTH: str(len(data))})
    outputs = reply.json.get("outputs", [])
    holds = reply.status == 200 and outputs and all("data" in output for output in outputs)
    return expect(holds, f"{reply.status}: {reply.error or 'JSON'}")


@binary.must("one-out", "binary_data of an output overrides binary_data_output", clauses.BINARY)
def _(s: Session) -> str:
    packed(s)
    outputs = [{"name": spec.name, "parameters": {"binary_data": False}} for spec in s.model.outputs]
    document = head(s) | {"outputs": outputs, "parameters": {"binary_data_output": True}}
    reply = post(s, json.dumps(document).encode())
    holds = reply.status == 200 and all("data" in output for output in reply.json["outputs"])
    return expect(holds, f"{reply.status}: {reply.error or reply.body[:80]!r}")


@binary.must("json-in", "binary outputs may be asked for with JSON inputs", clauses.BINARY)
def _(s: Session) -> str:
    packed(s)
    reply = post(s, json.dumps(head(s) | {"parameters": {"binary_data_output": True}}).encode())
    return expect(reply.status == 200 and reply.headers.get(HEADER_LENGTH), f"{reply.status}: {reply.error or 'JSON'}")


@binary.must("short", "binary data that is cut off is refused", clauses.BINARY)
def _(s: Session) -> str:
    return refused(packed(s, cut=1))


@binary.must("long", "binary data that is too long is refused", clauses.BINARY)
def _(s: Session) -> str:
    return refused(packed(s, tail=b"\0"))


@binary.must("length-beyond", "a length beyond the body is refused", clauses.BINARY)
def _(s: Session) -> str:
    return refused(packed(s, length="99999999"))


@binary.must("length-text", "a length that is no number is refused", clauses.BINARY)
def _(s: Session) -> str:
    return refused(packed(s, length="all"))


@binary.must("length-negative", "a negative length is refused", clauses.BINARY)
def _(s: Session) -> str:
    return refused(packed(s, length="-1"))


@binary.must("lives", "after all of these it still answers", clauses.BINARY)
def _(s: Session) -> str:
    reply = packed(s)
    return expect(reply.status == 200, f"{reply.status}: {reply.error}")


CHECKS = (*http, *body, *binary)
