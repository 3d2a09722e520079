"""The conformance suite: the agent's servers pass all of it, and each way to break a server is found."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skerry_edge.infer.engine import Active, Engine
from skerry_edge.serve import http1, jsontensors, listen, oip, rest, tensors
from skerry_edge.serve.catalog import Catalog
from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared import bundle
from skerry_shared.errors import LinkError, NotFoundError, StateError, UsageError
from skerry_shared.testing import oip as suite
from skerry_shared.testing.oip import CHECKS, Level, Outcome, Report, Target

Serve = Callable[[], Target]


@pytest.fixture
def serve(engine: Engine, tiny: bundle.Bundle) -> Iterator[Serve]:
    """Starts the agent's two servers, as they are by then."""
    stops: list[Callable[[], object]] = []

    def start() -> Target:
        place, models = listen.Place("127.0.0.1"), Catalog(engine)
        grpc_server, port = listen.grpc_server(place, 0, oip.handlers(models))
        http = listen.http_server(place, 0, models)
        stops.extend([lambda: grpc_server.stop(None).wait(), lambda: http.stop(0)])
        return Target(f"127.0.0.1:{port}", f"127.0.0.1:{http.port}")

    yield start
    for stop in stops:
        stop()


def ended(report: Report, outcome: Outcome) -> list[str]:
    return [f"{result.check.id}: {result.seen}" for result in report.results if result.outcome is outcome]


def test_the_agent_passes_every_check(serve: Serve) -> None:
    report = suite.run(serve())
    assert ended(report, Outcome.FAIL) == []
    assert ended(report, Outcome.SKIP) == ["infer.grpc-raw.agrees: the others are compared with this one"]
    assert report.conforms
    assert report.model == "tiny"


def test_one_address_is_enough(serve: Serve) -> None:
    both = serve()
    for target in (replace(both, http=""), replace(both, grpc="")):
        report = suite.run(target)
        assert ended(report, Outcome.FAIL) == []
        assert report.count(Outcome.PASS) >= 100


def test_there_are_enough_checks_and_each_is_named_once() -> None:
    assert sum(check.level is Level.MUST for check in CHECKS) >= 120
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    assert all(check.title and check.clause for check in CHECKS)


def wrong_id(response: Any, request: Any) -> Any:
    response.id = "another"
    return response


def changed_response(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any, Any], Any]) -> None:
    right = oip._reply

    def wrong(request: Any, prediction: Any) -> bytes:
        reply = pb.ModelInferResponse.FromString(right(request, prediction))
        changed: bytes = change(reply, request).SerializeToString()
        return changed

    monkeypatch.setattr(oip, "_reply", wrong)


def changed_reply(monkeypatch: pytest.MonkeyPatch, change: Callable[[http1.Request, http1.Reply], http1.Reply]) -> None:
    right = rest.RestService.respond
    monkeypatch.setattr(rest.RestService, "respond", lambda self, asked: change(asked, right(self, asked)))


def forget_id(monkeypatch: pytest.MonkeyPatch) -> None:
    changed_response(monkeypatch, wrong_id)


def forget_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(response: Any, _: Any) -> Any:
        if response.raw_output_contents:
            del response.raw_output_contents[-1]
        return response

    changed_response(monkeypatch, cut)


def never_check_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Catalog, "_serving", lambda self, *_: self._engine.manifests()[0])
    monkeypatch.setattr(Engine, "_find", lambda engine, _: engine._only)


def plain_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    changed_reply(monkeypatch, lambda _, r: r if r.status == 200 else replace(r, body=[b"Bad Request"]))


def no_binary_header(monkeypatch: pytest.MonkeyPatch) -> None:
    changed_reply(monkeypatch, lambda _, reply: replace(reply, headers={}))


def ignore_binary_size(monkeypatch: pytest.MonkeyPatch) -> None:
    right = jsontensors.inputs_of
    monkeypatch.setattr(jsontensors, "inputs_of", lambda found, data: right(found, data[:4] if data else data))


def zeros_for_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = tensors._from_contents
    monkeypatch.setattr(tensors, "_from_contents", lambda tensor: np.zeros_like(right(tensor)))


def crash_on_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(oip.CODES, StateError, oip.CODES[StateError])
    for kind in list(oip.CODES):
        monkeypatch.setitem(oip.CODES, kind, oip.CODES[StateError])


def close_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    right = http1._encoded
    monkeypatch.setattr(http1, "_encoded", lambda reply, last, with_body=True: right(reply, True, with_body))


SABOTAGE: dict[Callable[[pytest.MonkeyPatch], None], set[str]] = {
    forget_id: {"infer.grpc-raw.id", "infer.grpc-typed.id"},
    forget_raw: {"infer.grpc-raw.ok", "infer.grpc-raw.outputs"},
    never_check_the_name: {"grpc.health.unknown-model", "errors.grpc-raw.model", "errors.rest-json.version"},
    plain_errors: {"errors.rest-json.shape", "rest.json.empty", "rest.metadata.unknown-model"},
    no_binary_header: {"infer.rest-binary.ok", "rest.binary.header"},
    ignore_binary_size: {"rest.binary.long"},
    zeros_for_typed: {"infer.grpc-typed.agrees"},
    crash_on_wrong: {"errors.grpc-raw.shape", "errors.grpc-typed.unknown-input"},
    close_each_connection: {"rest.http.keep-alive"},
}


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_a_broken_server_is_found_out(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[pytest.MonkeyPatch], None]
) -> None:
    sabotage(monkeypatch)
    report = suite.run(serve())
    assert SABOTAGE[sabotage] - set(report.broken) == set()
    assert not report.conforms


def test_a_model_that_answers_by_chance_is_found_out(serve: Serve, engine: Engine, tiny: bundle.Bundle) -> None:
    class Chance:
        def run(self, inputs: Any) -> Any:
            count = len(inputs["image"])
            return {"scores": np.random.default_rng().random((count, 3), np.float32), "monitors": np.zeros((count, 1))}

    engine.swap(Active(tiny.manifest, Chance(), lambda *_: None))
    failed = [line.partition(":")[0] for line in ended(suite.run(serve()), Outcome.FAIL)]
    assert {"infer.grpc-raw.again", "infer.rest-json.agrees", "infer.grpc-raw.datatypes"} <= set(failed)


def test_what_cannot_be_checked_says_why(serve: Serve) -> None:
    with pytest.raises(UsageError, match="needs the address"):
        suite.run(Target())
    with pytest.raises(NotFoundError, match="'huge'"):
        suite.run(replace(serve(), model="huge"))
    with pytest.raises(LinkError):
        suite.run(Target("127.0.0.1:1"))
    with pytest.raises(LinkError):
        suite.run(Target("", "127.0.0.1:1", "tiny"))


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    code = "from skerry_cloud.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "oip-check", *arguments], capture_output=True, text=True, timeout=60
    )


def test_the_command(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("typer", reason="the operator's command line is the cloud's")
    target = serve()
    done = command(target.grpc, "--http", target.http, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["conforms"], report["model"]) == (0, True, "tiny")
    assert set(report["checks"][0]) == {"id", "title", "clause", "level", "outcome", "seen"}
    forget_id(monkeypatch)
    done = command(target.grpc, "--shape", "image=1,2,2")
    assert done.returncode == 1
    assert "broken: infer.grpc-raw.id," in " ".join(done.stdout.split())
    assert command(target.grpc, "--shape", "image").returncode == 2
