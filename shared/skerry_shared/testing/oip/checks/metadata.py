"""What the server and the model say about themselves."""

from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared.testing.oip import clauses
from skerry_shared.testing.oip.checks._make import Checks
from skerry_shared.testing.oip.core import Skipped, expect
from skerry_shared.testing.oip.session import NOBODY, Session
from skerry_shared.testing.oip.tensors import DATATYPES

grpc, rest = Checks("grpc.metadata"), Checks("rest.metadata")


def server(s: Session) -> Any:
    reply, error = s.call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    expect(reply, error)
    return reply


def model(s: Session, name: str = "", version: str = "") -> tuple[Any, str]:
    request = pb.ModelMetadataRequest(name=name or s.model.name, version=version)
    return s.call("ModelMetadata", request, pb.ModelMetadataResponse)


@grpc.must("server-name", "ServerMetadata tells the server's name", clauses.GRPC_SERVER)
def _(s: Session) -> str:
    return expect(server(s).name, f"name: {server(s).name!r}")


@grpc.must("server-version", "ServerMetadata tells the server's version", clauses.GRPC_SERVER)
def _(s: Session) -> str:
    return expect(server(s).version, f"version: {server(s).version!r}")


@grpc.must("model-name", "ModelMetadata tells the name that was asked for", clauses.GRPC_MODEL)
def _(s: Session) -> str:
    reply, error = model(s)
    return expect(reply and reply.name == s.model.name, error or f"name: {reply.name!r}")


@grpc.should("versions", "ModelMetadata tells the versions", clauses.GRPC_MODEL)
def _(s: Session) -> str:
    reply, error = model(s)
    return expect(reply and reply.versions, error or f"versions: {list(reply.versions)}")


@grpc.must("platform", "ModelMetadata tells the platform", clauses.GRPC_MODEL)
def _(s: Session) -> str:
    reply, error = model(s)
    return expect(reply and reply.platform, error or f"platform: {reply.platform!r}")


@grpc.must("inputs", "every input has a name, a datatype of the protocol, and a shape", clauses.GRPC_MODEL)
def _(s: Session) -> str:
    reply, error = model(s)
    return described(reply.inputs) if reply else expect(reply, error)


@grpc.must("outputs", "every output has a name, a datatype of the protocol, and a shape", clauses.GRPC_MODEL)
def _(s: Session) -> str:
    reply, error = model(s)
    return described(reply.outputs) if reply else expect(reply, error)


def described(tensors: Any) -> str:
    seen = ", ".join(f"{tensor.name} {tensor.datatype} {list(tensor.shape)}" for tensor in tensors)
    known = all(t.name and t.datatype in DATATYPES and all(size >= -1 for size in t.shape) for t in tensors)
    return expect(len(tensors) > 0 and known, seen or "none")


@grpc.must("by-version", "ModelMetadata of a version that it tells succeeds", clauses.GRPC_MODEL)
def _(s: Session) -> str:
    if not s.model.versions:
        raise Skipped("the model tells no versions")
    reply, error = model(s, version=s.model.versions[-1])
    return expect(reply, error or "OK")


@grpc.must("unknown-model", "ModelMetadata of an unknown model is an error", clauses.GRPC_ERRORS)
def _(s: Session) -> str:
    reply, error = model(s, NOBODY)
    return expect(reply is None, error or "OK")


@grpc.should("unknown-model-code", "… with NOT_FOUND", clauses.CODES)
def _(s: Session) -> str:
    _, error = model(s, NOBODY)
    return expect(error.startswith("NOT_FOUND"), error or "OK")


@grpc.must("unknown-version", "ModelMetadata of an unknown version is an error", clauses.GRPC_ERRORS)
def _(s: Session) -> str:
    reply, error = model(s, version=NOBODY)
    return expect(reply is None, error or "OK")


@grpc.should("fields", "ModelMetadata has no fields that stock clients do not know", clauses.GRPC_MODEL)
def _(s: Session) -> str:
    reply, error = model(s)
    expect(reply, error)
    fields: Any = UnknownFieldSet(reply)
    unknown = [field.field_number for field in fields]
    return expect(not unknown, f"unknown fields: {unknown or 'none'}")


@grpc.must("unknown-method", "a method that does not exist is UNIMPLEMENTED", clauses.CODES)
def _(s: Session) -> str:
    _, error = s.call("NoSuchMethod", b"", pb.ServerLiveResponse)
    return expect(error.startswith("UNIMPLEMENTED"), error or "OK")


@grpc.must("garbage", "bytes that are no message are an error, and the server lives on", clauses.GRPC_ERRORS)
def _(s: Session) -> str:
    reply, error = s.call("ModelMetadata", b"\xff\xff\xff", pb.ModelMetadataResponse)
    alive, why = s.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)
    return expect(reply is None and alive, why or error or "OK")


@rest.must("server", "GET v2 tells name, version and extensions", clauses.REST_SERVER)
def _(s: Session) -> str:
    reply = s.ask("GET", "/v2")
    found = reply.json
    holds = reply.status == 200 and found.get("name") and found.get("version") and type(found.get("extensions")) is list
    return expect(holds, f"{reply.status}: {found}")


@rest.must("model", "GET v2/models/MODEL tells the name that was asked for, and the platform", clauses.REST_MODEL)
def _(s: Session) -> str:
    reply = s.ask("GET", f"/v2/models/{s.model.name}")
    found = reply.json
    holds = reply.status == 200 and found.get("name") == s.model.name and found.get("platform")
    return expect(holds, f"{reply.status}: {found}")


@rest.must("tensors", "every tensor has a name, a datatype of the protocol, and a shape", clauses.REST_MODEL)
def _(s: Session) -> str:
    found = s.ask("GET", f"/v2/models/{s.model.name}").json
    tensors = found["inputs"] + found["outputs"]
    known = [
        t["name"] and t["datatype"] in DATATYPES and all(type(n) is int and n >= -1 for n in t["shape"])
        for t in tensors
    ]
    return expect(found["inputs"] and found["outputs"] and all(known), f"{tensors}")


@rest.must("by-version", "GET v2/models/MODEL/versions/VERSION succeeds", clauses.REST_MODEL)
def _(s: Session) -> str:
    if not s.model.versions:
        raise Skipped("the model tells no versions")
    reply = s.ask("GET", f"/v2/models/{s.model.name}/versions/{s.model.versions[-1]}")
    return expect(reply.status == 200, f"{reply.status}")


@rest.must("unknown-model", "GET v2/models/UNKNOWN is {'error': text} with an error status", clauses.REST_MODEL)
def _(s: Session) -> str:
    reply = s.ask("GET", f"/v2/models/{NOBODY}")
    return expect(reply.status >= 400 and reply.error, f"{reply.status}: {reply.body[:80]!r}")


@rest.should("unknown-model-status", "… with 404", clauses.REST_MODEL)
def _(s: Session) -> str:
    status = s.ask("GET", f"/v2/models/{NOBODY}").status
    return expect(status == 404, f"{status}")


@rest.must("same", "REST and gRPC tell the same tensors", clauses.REST_MODEL)
def _(s: Session) -> str:
    message, error = model(s)
    expect(message, error)
    found = s.ask("GET", f"/v2/models/{s.model.name}").json
    by_grpc = [(t.name, t.datatype, list(t.shape)) for t in (*message.inputs, *message.outputs)]
    by_rest = [(t["name"], t["datatype"], t["shape"]) for t in found["inputs"] + found["outputs"]]
    return expect(by_grpc == by_rest, "the same" if by_grpc == by_rest else f"gRPC {by_grpc}, REST {by_rest}")


CHECKS = (*grpc, *rest)
