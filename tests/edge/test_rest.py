"""The inference protocol over REST, by http.client on a real socket; stock clients are in test_stock_clients.py."""

import contextlib
import gzip
import http.client
import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_edge.infer.engine import Active, Engine
from skerry_edge.serve import jsontensors, rest
from skerry_edge.serve.catalog import Catalog, policy_of
from skerry_edge.serve.datatypes import DTYPES
from skerry_edge.serve.http1 import HttpServer
from skerry_shared import bundle
from skerry_shared.errors import InputError, ModelError, OverloadError

Ask = Callable[..., tuple[int, Any, bytes]]  # (method, path, body, **headers) → status, JSON, binary


@pytest.fixture
def told() -> list[tuple[str, str]]:
    """Late labels that came."""
    return []


@pytest.fixture
def ask(engine: Engine, told: list[tuple[str, str]]) -> Iterator[Ask]:
    server = HttpServer("127.0.0.1", 0, rest.RestService(Catalog(engine, told.extend)).respond)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)

    def asked(method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, bytes]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        content = reply.read()
        split = int(reply.headers.get(rest.HEADER_LENGTH, len(content)))
        return reply.status, json.loads(content[:split] or b"null"), content[split:]

    yield asked
    connection.close()
    server.stop(0)


INFER = "/v2/models/tiny/infer"
ZEROS = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2], "data": [0, 0, 0, 0]}


def document(images: np.ndarray[Any, Any], **changes: Any) -> dict[str, Any]:
    return {"inputs": [ZEROS | {"shape": list(images.shape), "data": images.ravel().tolist()} | changes]}


@pytest.mark.usefixtures("tiny")
def test_late_labels_come_alone_or_with_a_request(ask: Ask, told: list[tuple[str, str]]) -> None:
    assert ask("POST", "/v2/labels", {"labels": {"p1": "cat", "p2": "dog"}})[0] == 200
    assert ask("POST", INFER, {"inputs": [ZEROS], "parameters": {"label:p3": "cat"}})[0] == 200
    assert told == [("p1", "cat"), ("p2", "dog"), ("p3", "cat")]


@pytest.mark.parametrize("labels", [None, {}, [], {"p": 1}, {"p": "x" * 1025}])
def test_what_is_no_label_is_refused_and_changes_nothing(ask: Ask, told: list[tuple[str, str]], labels: Any) -> None:
    status, reply, _ = ask("POST", "/v2/labels", {"labels": labels})
    assert status == 400 and "labels: need 1 to" in reply["error"] and not told


def test_json_in_json_out(ask: Ask, tiny: bundle.Bundle) -> None:
    images, right = tiny.golden.inputs["image"], np.asarray(tiny.golden.outputs["scores"], np.float32)
    status, reply, binary = ask("POST", INFER, document(images) | {"id": "mine"})
    assert (status, reply["id"], reply["model_name"], reply["model_version"], binary) == (200, "mine", "tiny", "5", b"")
    assert [(output["name"], output["datatype"], output["shape"]) for output in reply["outputs"]] == [
        ("scores", "FP32", [8, 3]),
        ("monitors", "FP32", [8, 1]),
    ]
    np.testing.assert_allclose(np.reshape(reply["outputs"][0]["data"], (8, 3)), right, atol=1e-6)


def test_nested_json_is_the_same(ask: Ask, tiny: bundle.Bundle) -> None:
    images = tiny.golden.inputs["image"]
    flat = ask("POST", INFER, document(images))[1]
    nested = ask("POST", INFER, document(images, data=images.tolist()))[1]
    assert flat["outputs"] == nested["outputs"]


def test_binary_in_and_each_output_as_it_is_asked_for(ask: Ask, tiny: bundle.Bundle) -> None:
    images, right = tiny.golden.inputs["image"], np.asarray(tiny.golden.outputs["scores"], np.float32)
    head = document(images, parameters={"binary_data_size": images.nbytes})
    del head["inputs"][0]["data"]
    head |= {
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "monitors", "parameters": {"binary_data": False}}, {"name": "scores"}],
    }
    data = json.dumps(head).encode()
    status, reply, binary = ask(
        "POST", "/v2/models/tiny/versions/5/infer", data + images.tobytes(),
        inference_header_content_length=str(len(data)),
    )  # fmt: skip
    assert status == 200
    monitors, scores = reply["outputs"]
    assert len(monitors["data"]) == 8
    assert "data" not in scores
    assert scores["parameters"] == {"binary_data_size": len(binary)}
    np.testing.assert_allclose(np.frombuffer(binary, "<f4").reshape(8, 3), right, atol=1e-6)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_may_be_compressed(ask: Ask, tiny: bundle.Bundle, encoding: str, pack: Any) -> None:
    body = pack(json.dumps({"inputs": [ZEROS]}).encode())
    assert ask("POST", INFER, body, content_encoding=encoding)[0] == 200
    status, reply, _ = ask("POST", INFER, body[:-8], content_encoding=encoding)
    assert (status, "cut off" in reply["error"]) == (400, True)


def test_a_body_that_unpacks_without_end_is_refused(
    ask: Ask, tiny: bundle.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "MAX_BODY", 1 << 16)
    assert ask("POST", INFER, gzip.compress(bytes(1 << 20)), content_encoding="gzip")[0] == 413


def test_health_and_metadata(ask: Ask, tiny: bundle.Bundle) -> None:
    assert ask("GET", "/v2/health/live")[:2] == (200, {"live": True})
    assert ask("GET", "/v2/health/ready")[0] == 200
    assert ask("GET", "/v2/models/tiny/ready")[:2] == (200, {"name": "tiny", "ready": True})
    assert ask("GET", "/v2/models/tiny/versions/4/ready")[0] == 404
    assert ask("GET", "/v2")[1]["name"] == "skerry-agent"
    metadata = ask("GET", "/v2/models/tiny")[1]
    assert metadata["versions"] == ["5"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 2, 2]}]


def test_the_repository_shows_what_the_fleet_assigned_and_does_not_change_it(ask: Ask, tiny: bundle.Bundle) -> None:
    index = [{"name": "tiny", "version": "5", "state": "READY", "reason": ""}]
    assert ask("POST", "/v2/repository/index", b"")[:2] == (200, index)
    assert ask("POST", "/v2/repository/models/tiny/load", b"")[0] == 200
    status, reply, _ = ask("POST", "/v2/repository/models/tiny/unload", b"")
    assert (status, "skerry rollout" in reply["error"]) == (400, True)
    assert ask("POST", "/v2/repository/models/huge/load", b"")[0] == 404
    assert ask("POST", INFER, {"inputs": [ZEROS]})[0] == 200


def test_statistics_count_answers_errors_and_batch_sizes(ask: Ask, tiny: bundle.Bundle) -> None:
    for count in (1, 2, 2):
        assert ask("POST", INFER, document(np.zeros((count, 2, 2), np.uint8)))[0] == 200
    assert ask("POST", INFER, document(np.zeros((1, 2, 3), np.uint8)))[0] == 400
    (found,) = ask("GET", "/v2/models/tiny/stats")[1]["model_stats"]
    assert (found["name"], found["inference_count"], found["execution_count"]) == ("tiny", 5, 3)
    totals = found["inference_stats"]
    assert (totals["success"]["count"], totals["fail"]["count"], totals["compute_infer"]["count"]) == (3, 1, 3)
    assert totals["queue"] == {"count": 3, "ns": 0}  # perf_analyzer finds the version that answered by it
    assert totals["success"]["ns"] >= totals["compute_infer"]["ns"] > 0
    assert [(row["batch_size"], row["compute_infer"]["count"]) for row in found["batch_stats"]] == [(1, 1), (2, 2)]
    assert ask("GET", "/v2/models/stats")[1]["model_stats"][0] == found


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "not JSON"),
    "not UTF-8": (b"\xff{}", "not JSON"),
    "deep JSON": (b"[" * 100_000, "not JSON"),
    "an array": ([], "need a JSON object"),
    "no inputs": ({}, "inputs: need an array of objects"),
    "a number as input": ({"inputs": [1]}, "inputs: need an array of objects"),
    "no name": ({"inputs": [{}]}, "'name' must be a string"),
    "a number as id": ({"inputs": [ZEROS], "id": 1}, "'id' must be a string"),
    "twice": ({"inputs": [ZEROS, ZEROS]}, "'image': given twice"),
    "unknown input": ({"inputs": [ZEROS | {"name": "picture"}]}, "'picture': unknown"),
    "missing input": ({"inputs": []}, "'image': missing"),
    "datatype": ({"inputs": [ZEROS | {"datatype": "FP8"}]}, "'image': datatype 'FP8'"),
    "wrong datatype": ({"inputs": [ZEROS | {"datatype": "INT32"}]}, "'image': expected uint8"),
    "shape": ({"inputs": [ZEROS | {"shape": "all"}]}, "'image': 'shape' must be an array of integers"),
    "huge shape": ({"inputs": [ZEROS | {"shape": [1 << 40, 1 << 40]}]}, "'image'"),
    "negative shape": ({"inputs": [ZEROS | {"shape": [-1, 2, 2]}]}, "'image': shape [-1, 2, 2] has a negative"),
    "wrong shape": ({"inputs": [ZEROS | {"shape": [1, 4]}]}, "'image': expected uint8 [*, 2, 2]"),
    "few": ({"inputs": [ZEROS | {"data": [1]}]}, "'image': UINT8 [1, 2, 2] needs 4 values, got 1"),
    "uneven": ({"inputs": [ZEROS | {"data": [[1], [2, 3]]}]}, "'image': 'data' is nested unevenly"),
    "other nesting": ({"inputs": [ZEROS | {"data": [[1], [2], [3], [4]]}]}, "nested as [4, 1]"),
    "range": ({"inputs": [ZEROS | {"data": [0, 0, 0, 256]}]}, "'image': values from 0 to 256 do not fit"),
    "fractions": ({"inputs": [ZEROS | {"data": [0, 0, 0, 0.5]}]}, "'image': 'data' has values that are no UINT8"),
    "text": ({"inputs": [ZEROS | {"data": ["a", "b", "c", "d"]}]}, "'image': 'data' has values that are no UINT8"),
    "nothing": ({"inputs": [ZEROS | {"data": None}]}, "'image': 'data' must be an array"),
    "binary size": ({"inputs": [ZEROS | {"parameters": {"binary_data_size": -4}}]}, "'image': 'binary_data_size'"),
    "no binary": ({"inputs": [ZEROS | {"parameters": {"binary_data_size": 4}}]}, "'image'"),
    "shared memory": ({"inputs": [ZEROS | {"parameters": {"shared_memory_region": "a"}}]}, "'image': shared memory"),
    "unknown output": ({"inputs": [ZEROS], "outputs": [{"name": "logits"}]}, "'logits': unknown"),
    "binary maybe": (
        {"inputs": [ZEROS], "outputs": [{"name": "scores", "parameters": {"binary_data": "yes"}}]},
        "'scores': 'binary_data' must be true or false",
    ),
    "priority": ({"inputs": [ZEROS], "parameters": {"priority": -1}}, "parameter 'priority': '-1' is not a number"),
    "timeout": ({"inputs": [ZEROS], "parameters": {"timeout": "soon"}}, "parameter 'timeout': 'soon' is not a number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(ask: Ask, tiny: bundle.Bundle, case: str) -> None:
    body, text = WRONG[case]
    status, reply, _ = ask("POST", INFER, body)
    assert status == 400
    assert text in reply["error"]
    assert ask("POST", INFER, {"inputs": [ZEROS]})[0] == 200  # on the same connection


def test_binary_data_must_be_what_the_head_tells(ask: Ask, tiny: bundle.Bundle) -> None:
    head = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 2, 2]}]}
    head["inputs"][0]["parameters"] = {"binary_data_size": 4}  # type: ignore[assignment]
    data = json.dumps(head).encode()
    for tail, length, status in ((b"abcd", len(data), 200), (b"abc", len(data), 400), (b"abcde", len(data), 400),
                                 (b"abcd", 10_000, 400), (b"abcd", "all", 400), (b"abcd", -1, 400)):  # fmt: skip
        found = ask("POST", INFER, data + tail, inference_header_content_length=str(length))
        assert (found[0], "error" in found[1]) == (status, status != 200)


def test_status_codes(ask: Ask, tiny: bundle.Bundle) -> None:
    for method, path, status in (
        ("POST", "/v2/models/huge/infer", 404),
        ("POST", "/v2/models/tiny/versions/4/infer", 404),
        ("GET", "/v2/models/huge", 404),
        ("GET", "/v2/models/huge/stats", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", INFER, 405),
        ("POST", "/v2/health/live", 405),
    ):
        found, reply, _ = ask(method, path, {"inputs": [ZEROS]} if method == "POST" else None)
        assert (found, list(reply)) == (status, ["error"]), path
    assert ask("POST", INFER, {"inputs": [ZEROS], "parameters": {"timeout": 1}})[0] == 504
    assert ask("POST", INFER, {"inputs": [ZEROS], "parameters": {"timeout": 60_000_000}})[0] == 200


def test_without_a_model(ask: Ask) -> None:
    assert ask("GET", "/v2/health/live")[0] == 200
    assert ask("GET", "/v2/health/ready")[0] == 503
    assert ask("GET", "/v2/models/tiny/ready")[0] == 503
    assert ask("POST", INFER, {"inputs": [ZEROS]})[0] == 503


@pytest.mark.parametrize(("problem", "status"), [(OverloadError("full"), 503), (ModelError("broken"), 500)])
def test_what_the_engine_raises(ask: Ask, tiny: bundle.Bundle, engine: Engine, problem: Exception, status: int) -> None:
    class Failing:
        def run(self, _: Any) -> Any:
            raise problem

    engine.swap(Active(tiny.manifest, Failing(), lambda *_: None))
    assert ask("POST", INFER, {"inputs": [ZEROS]})[:2] == (status, {"error": str(problem)})


def test_json_cannot_hold_what_is_no_number(ask: Ask, tiny: bundle.Bundle, engine: Engine) -> None:
    class Odd:
        def run(self, _: Any) -> Any:
            return {"scores": np.array([[np.nan, np.inf, 0]], np.float32)}

    engine.swap(Active(tiny.manifest, Odd(), lambda *_: None))
    status, reply, _ = ask("POST", INFER, {"inputs": [ZEROS]})
    assert (status, "'scores'" in reply["error"]) == (400, True)
    status, _, binary = ask("POST", INFER, {"inputs": [ZEROS], "parameters": {"binary_data_output": True}})
    assert status == 200
    assert struct.unpack("<3f", binary)[2] == 0


def test_how_a_request_is_scheduled() -> None:
    assert policy_of(None, {}) == (None, 0)
    assert policy_of(None, {"priority": 1}).priority > 0 > policy_of(None, {"priority": 3}).priority
    now = time.monotonic()
    for remaining, timeout, expected in ((5.0, 0, 5.0), (None, 2_000_000, 2.0), (5.0, 2_000_000, 2.0), (1.0, 9e6, 1.0)):
        deadline = policy_of(remaining, {"timeout": int(timeout), "unknown": object()}).deadline
        assert deadline is not None
        assert now + expected <= deadline <= time.monotonic() + expected


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["UINT8", "FP32"])
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=3)
)
TENSOR = st.fixed_dictionaries(
    {"name": st.just("image") | ANYTHING, "datatype": st.sampled_from(list(DTYPES)) | ANYTHING},
    optional={
        "shape": st.lists(st.integers(-1, 4), max_size=3) | ANYTHING,
        "data": st.lists(st.integers(-1, 300), max_size=8) | ANYTHING,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 9) | ANYTHING}) | ANYTHING,
    },
)


@given(st.lists(TENSOR, max_size=2) | ANYTHING, st.binary(max_size=9))
def test_any_inputs_are_understood_or_refused(inputs: Any, binary: bytes) -> None:
    try:
        arrays = jsontensors.inputs_of(inputs, memoryview(binary))
    except InputError:
        return
    for tensor in inputs:
        array = arrays[tensor["name"]]
        assert (array.dtype, list(array.shape)) == (DTYPES[tensor["datatype"]], tensor["shape"])


@given(st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), ANYTHING))
def test_any_wish_is_understood_or_refused(document: Any) -> None:
    with contextlib.suppress(InputError):
        policy_of(None, rest._Asked(document).parameters)
