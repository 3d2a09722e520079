"""Extensions that perf_analyzer and stock clients ask for, checked where the server announces them; and deadlines."""

from typing import Any

from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared.testing.oip import clauses, tensors
from skerry_shared.testing.oip.checks._make import Checks
from skerry_shared.testing.oip.core import Skipped, expect
from skerry_shared.testing.oip.session import NOBODY, Session

SHORT_S = 1e-3  # a deadline that few servers keep

repository, configuration = Checks("repository"), Checks("configuration")
statistics, deadlines = Checks("statistics"), Checks("deadline")


def call(s: Session, extension: str, method: str, request: Any, reply: Any) -> tuple[Any, str]:
    if not s.target.grpc:
        raise Skipped("no gRPC server to ask")
    s.need(extension)
    return s.call(method, request, reply)


def index(s: Session, ready: bool) -> str:
    request = pb.RepositoryIndexRequest(ready=ready)
    reply, error = call(s, "model_repository", "RepositoryIndex", request, pb.RepositoryIndexResponse)
    expect(reply, error)
    seen = ", ".join(f"{model.name} {model.version} {model.state}" for model in reply.models)
    return expect(any((m.name, m.state) == (s.model.name, "READY") for m in reply.models), seen or "no models")


def asked(s: Session, extension: str, method: str, path: str) -> Any:
    """The JSON of a success. Raises Broken or Skipped."""
    if not s.target.http:
        raise Skipped("no REST server to ask")
    s.need(extension)
    reply = s.ask(method, path, b"{}" if method == "POST" else b"")
    expect(reply.status == 200, f"{reply.status}: {reply.error}")
    return reply.json if reply.body else {}


@repository.must("grpc.index", "RepositoryIndex has the model as READY", clauses.REPOSITORY)
def _(s: Session) -> str:
    return index(s, ready=False)


@repository.must("grpc.index-ready", "… also among those that are ready", clauses.REPOSITORY)
def _(s: Session) -> str:
    return index(s, ready=True)


@repository.must("grpc.load-unknown", "loading an unknown model is an error", clauses.REPOSITORY)
def _(s: Session) -> str:
    request = pb.RepositoryModelLoadRequest(model_name=NOBODY)
    reply, error = call(s, "model_repository", "RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)
    return expect(reply is None and not error.startswith("UNIMPLEMENTED"), error or "OK")


@repository.must(
    "grpc.load", "loading the model that serves keeps it serving, or is refused clearly", clauses.REPOSITORY
)
def _(s: Session) -> str:
    request = pb.RepositoryModelLoadRequest(model_name=s.model.name)
    _, error = call(s, "model_repository", "RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)
    answer = s.infer("grpc-raw", s.query())
    return expect(answer.ok and not error.startswith(("UNIMPLEMENTED", "UNKNOWN")), error or str(answer))


@repository.must("rest.index", "POST v2/repository/index has the model as READY", clauses.REPOSITORY)
def _(s: Session) -> str:
    found = asked(s, "model_repository", "POST", "/v2/repository/index")
    return expect(any((m["name"], m.get("state")) == (s.model.name, "READY") for m in found), f"{found}")


@repository.must("rest.load-unknown", "loading an unknown model is {'error': text}", clauses.REPOSITORY)
def _(s: Session) -> str:
    asked(s, "model_repository", "POST", "/v2/repository/index")
    reply = s.ask("POST", f"/v2/repository/models/{NOBODY}/load")
    return expect(reply.status >= 400 and reply.error, f"{reply.status}: {reply.body[:80]!r}")


def config(s: Session) -> Any:
    request = pb.ModelConfigRequest(name=s.model.name)
    reply, error = call(s, "model_configuration", "ModelConfig", request, pb.ModelConfigResponse)
    expect(reply, error)
    return reply.config


@configuration.must("grpc.name", "ModelConfig is of the model that was asked for", clauses.CONFIGURATION)
def _(s: Session) -> str:
    found = config(s)
    return expect(found.name == s.model.name, f"name: {found.name!r}")


@configuration.must("grpc.inputs", "its inputs are the metadata's, less a free first dimension", clauses.CONFIGURATION)
def _(s: Session) -> str:
    found = config(s)
    return same_tensors(found.max_batch_size, s.model.inputs, [_dims(tensor) for tensor in found.input])


@configuration.must(
    "grpc.outputs", "its outputs are the metadata's, less a free first dimension", clauses.CONFIGURATION
)
def _(s: Session) -> str:
    found = config(s)
    return same_tensors(found.max_batch_size, s.model.outputs, [_dims(tensor) for tensor in found.output])


@configuration.must("grpc.unknown", "ModelConfig of an unknown model is an error", clauses.CONFIGURATION)
def _(s: Session) -> str:
    request = pb.ModelConfigRequest(name=NOBODY)
    reply, error = call(s, "model_configuration", "ModelConfig", request, pb.ModelConfigResponse)
    return expect(reply is None and not error.startswith("UNIMPLEMENTED"), error or "OK")


@configuration.must(
    "rest", "GET v2/models/MODEL/config tells name, batch size, inputs and outputs", clauses.CONFIGURATION
)
def _(s: Session) -> str:
    found = asked(s, "model_configuration", "GET", f"/v2/models/{s.model.name}/config")
    size = found.get("max_batch_size", 0)
    inputs = [(t["name"], t["data_type"], list(map(int, t["dims"]))) for t in found["input"]]
    expect(found["name"] == s.model.name, f"name: {found['name']!r}")
    return same_tensors(size, s.model.inputs, inputs)


def _dims(tensor: Any) -> tuple[str, str, list[int]]:
    return tensor.name, pb.DataType.Name(tensor.data_type), list(tensor.dims)


def same_tensors(batch: int, specs: tuple[tensors.Spec, ...], found: list[tuple[str, str, list[int]]]) -> str:
    wanted = [
        (spec.name, f"TYPE_{'STRING' if spec.datatype == 'BYTES' else spec.datatype}",
         list(spec.shape[1:] if batch > 0 else spec.shape))
        for spec in specs
    ]  # fmt: skip
    return expect(sorted(found) == sorted(wanted), f"max_batch_size {batch}, {found}")


def counts(s: Session) -> Any:
    request = pb.ModelStatisticsRequest(name=s.model.name)
    reply, error = call(s, "statistics", "ModelStatistics", request, pb.ModelStatisticsResponse)
    expect(reply and reply.model_stats, error or "no model_stats")
    return reply.model_stats[-1]


@statistics.must("grpc.success", "an answered request is counted, and its time", clauses.STATISTICS)
def _(s: Session) -> str:
    before = counts(s)
    expect(s.infer("grpc-raw", s.query()).ok, "the request failed")
    after = counts(s)
    one, other = before.inference_stats.success, after.inference_stats.success
    return expect(other.count > one.count and other.ns > one.ns, f"count {one.count} → {other.count}")


@statistics.must("grpc.examples", "inference_count counts examples, execution_count executions", clauses.STATISTICS)
def _(s: Session) -> str:
    if any(spec.shape[:1] != (-1,) for spec in s.model.inputs):
        raise Skipped("the first dimension of the inputs is not free")
    before = counts(s)
    expect(s.infer("grpc-raw", s.query(3)).ok, "the request failed")
    after = counts(s)
    examples, runs = after.inference_count - before.inference_count, after.execution_count - before.execution_count
    return expect(examples >= 3 and runs >= 1, f"3 examples: inference_count + {examples}, execution_count + {runs}")


@statistics.must("grpc.unknown", "ModelStatistics of an unknown model is an error", clauses.STATISTICS)
def _(s: Session) -> str:
    request = pb.ModelStatisticsRequest(name=NOBODY)
    reply, error = call(s, "statistics", "ModelStatistics", request, pb.ModelStatisticsResponse)
    return expect(reply is None and not error.startswith("UNIMPLEMENTED"), error or "OK")


@statistics.must("rest.model", "GET v2/models/MODEL/stats counts", clauses.STATISTICS)
def _(s: Session) -> str:
    found = asked(s, "statistics", "GET", f"/v2/models/{s.model.name}/stats")["model_stats"]
    holds = found and found[0]["name"] == s.model.name and found[0]["inference_stats"]["success"]["count"] > 0
    return expect(holds, f"{found}")


@statistics.must("rest.all", "GET v2/models/stats has the model", clauses.STATISTICS)
def _(s: Session) -> str:
    found = asked(s, "statistics", "GET", "/v2/models/stats")["model_stats"]
    return expect(any(entry["name"] == s.model.name for entry in found), f"{[entry['name'] for entry in found]}")


@deadlines.must("grpc.call", "a call with a short deadline is answered in time, or DEADLINE_EXCEEDED", clauses.CODES)
def _(s: Session) -> str:
    request = tensors.grpc_request(s.query(), raw=True)
    _, error = s.call("ModelInfer", request, pb.ModelInferResponse, timeout=SHORT_S)
    return expect(not error or error.startswith("DEADLINE_EXCEEDED"), error or "OK")


@deadlines.should("grpc.timeout", "a timeout that nobody keeps is DEADLINE_EXCEEDED, or is ignored", clauses.SCHEDULE)
def _(s: Session) -> str:
    answer = s.infer("grpc-raw", s.query(parameters={"timeout": 1}))
    return expect(answer.code in ("OK", "DEADLINE_EXCEEDED", "UNAVAILABLE"), str(answer))


@deadlines.should("rest.timeout", "a timeout that nobody keeps is 504 or 503, or is ignored", clauses.SCHEDULE)
def _(s: Session) -> str:
    answer = s.infer("rest-json", s.query(parameters={"timeout": 1}))
    return expect(answer.code in ("200", "504", "503"), str(answer))


@deadlines.must("lives", "after these it still answers", clauses.CODES)
def _(s: Session) -> str:
    answer = s.infer("grpc-raw", s.query())
    return expect(answer.ok, str(answer))


CHECKS = (*repository, *configuration, *statistics, *deadlines)
