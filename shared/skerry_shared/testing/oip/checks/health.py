"""Live and ready, of the server and of the model."""

from typing import Any

from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared.testing.oip import clauses
from skerry_shared.testing.oip.checks._make import Checks
from skerry_shared.testing.oip.core import expect
from skerry_shared.testing.oip.session import NOBODY, Session

grpc, rest = Checks("grpc.health"), Checks("rest.health")


@grpc.must("live", "ServerLive says that the server lives", clauses.GRPC_HEALTH)
def _(s: Session) -> str:
    reply, error = s.call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)
    return expect(reply and reply.live, error or f"live: {reply.live}")


@grpc.must("ready", "ServerReady says that it is ready", clauses.GRPC_HEALTH)
def _(s: Session) -> str:
    reply, error = s.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)
    return expect(reply and reply.ready, error or f"ready: {reply.ready}")


def model_ready(s: Session, name: str, version: str = "") -> tuple[Any, str]:
    return s.call("ModelReady", pb.ModelReadyRequest(name=name, version=version), pb.ModelReadyResponse)


@grpc.must("model", "ModelReady says that the model is ready", clauses.GRPC_HEALTH)
def _(s: Session) -> str:
    reply, error = model_ready(s, s.model.name)
    return expect(reply and reply.ready, error or f"ready: {reply.ready}")


@grpc.must("version", "ModelReady knows each version of the metadata", clauses.GRPC_HEALTH)
def _(s: Session) -> str:
    for version in s.model.versions:
        reply, error = model_ready(s, s.model.name, version)
        expect(reply and reply.ready, error or f"version {version}: ready: {reply.ready}")
    return f"ready: {', '.join(s.model.versions) or 'there are no versions'}"


@grpc.must("unknown-model", "ModelReady of an unknown model is false, or an error", clauses.GRPC_HEALTH)
def _(s: Session) -> str:
    reply, error = model_ready(s, NOBODY)
    return expect(reply is None or not reply.ready, error or f"ready: {reply.ready}")


@grpc.must("unknown-version", "ModelReady of an unknown version is false, or an error", clauses.GRPC_HEALTH)
def _(s: Session) -> str:
    reply, error = model_ready(s, s.model.name, NOBODY)
    return expect(reply is None or not reply.ready, error or f"ready: {reply.ready}")


@rest.must("live", "GET v2/health/live answers 200", clauses.REST_HEALTH)
def _(s: Session) -> str:
    reply = s.ask("GET", "/v2/health/live")
    return expect(reply.status == 200, f"{reply.status}: {reply.body[:80]!r}")


@rest.must("ready", "GET v2/health/ready answers 200", clauses.REST_HEALTH)
def _(s: Session) -> str:
    reply = s.ask("GET", "/v2/health/ready")
    return expect(reply.status == 200, f"{reply.status}: {reply.body[:80]!r}")


@rest.should("live-body", "its body says {'live': true}", clauses.REST_HEALTH)
def _(s: Session) -> str:
    found = s.ask("GET", "/v2/health/live").json
    return expect(found.get("live") is True, f"{found}")


@rest.must("model", "GET v2/models/MODEL/ready answers 200", clauses.REST_HEALTH)
def _(s: Session) -> str:
    reply = s.ask("GET", f"/v2/models/{s.model.name}/ready")
    return expect(reply.status == 200, f"{reply.status}: {reply.body[:80]!r}")


@rest.should("model-body", "its body says the model's name and {'ready': true}", clauses.REST_HEALTH)
def _(s: Session) -> str:
    found = s.ask("GET", f"/v2/models/{s.model.name}/ready").json
    return expect((found.get("name"), found.get("ready")) == (s.model.name, True), f"{found}")


@rest.must("version", "GET v2/models/MODEL/versions/VERSION/ready answers 200", clauses.REST_HEALTH)
def _(s: Session) -> str:
    for version in s.model.versions:
        reply = s.ask("GET", f"/v2/models/{s.model.name}/versions/{version}/ready")
        expect(reply.status == 200, f"version {version}: {reply.status}")
    return f"200: {', '.join(s.model.versions) or 'there are no versions'}"


@rest.must("unknown-model", "an unknown model is not ready", clauses.REST_HEALTH)
def _(s: Session) -> str:
    reply = s.ask("GET", f"/v2/models/{NOBODY}/ready")
    return expect(
        400 <= reply.status < 600 or (reply.status == 200 and reply.json.get("ready") is False), f"{reply.status}"
    )


@rest.must("unknown-version", "an unknown version is not ready", clauses.REST_HEALTH)
def _(s: Session) -> str:
    reply = s.ask("GET", f"/v2/models/{s.model.name}/versions/{NOBODY}/ready")
    return expect(
        400 <= reply.status < 600 or (reply.status == 200 and reply.json.get("ready") is False), f"{reply.status}"
    )


CHECKS = (*grpc, *rest)
