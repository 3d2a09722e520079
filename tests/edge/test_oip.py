"""The Open Inference Protocol over a real channel, by hand as any client speaks it: nothing of the server is called."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from skerry_edge.infer.engine import Engine
from skerry_edge.serve import oip
from skerry_edge.serve.catalog import Catalog
from skerry_edge.serve.datatypes import DTYPES
from skerry_edge.serve.tensors import CONTENTS
from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared import bundle

pytestmark = pytest.mark.arm64


Call = Callable[..., Any]


@pytest.fixture
def told() -> list[tuple[str, str]]:
    """Late labels that came."""
    return []


@pytest.fixture
def call(engine: Engine, told: list[tuple[str, str]]) -> Iterator[Call]:
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([oip.handlers(Catalog(engine, told.extend))])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

        def ask(method: str, request: Any, reply: Any) -> Any:
            path = f"/inference.GRPCInferenceService/{method}"
            return channel.unary_unary(path, type(request).SerializeToString, reply.FromString)(request, timeout=10)

        yield ask
    server.stop(None).wait()


def tensor(name: str, datatype: str, shape: Sequence[int]) -> pb.ModelInferRequest.InferInputTensor:
    return pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)


def raw_request(images: np.ndarray[Any, Any], **changes: Any) -> pb.ModelInferRequest:
    inputs = [tensor("image", "UINT8", images.shape)]
    return pb.ModelInferRequest(
        **{"model_name": "tiny", "inputs": inputs, "raw_input_contents": [images.tobytes()]} | changes
    )


def typed_request(images: np.ndarray[Any, Any]) -> pb.ModelInferRequest:
    request = raw_request(images, raw_input_contents=[])
    request.inputs[0].contents.uint_contents.extend(images.ravel().tolist())
    return request


def merged(one: pb.ModelInferRequest, other: pb.ModelInferRequest) -> pb.ModelInferRequest:
    one.raw_input_contents.extend(other.raw_input_contents)
    return one


def test_late_labels_come_with_a_request(call: Call, tiny: bundle.Bundle, told: list[tuple[str, str]]) -> None:
    request = raw_request(tiny.golden.inputs["image"])
    request.parameters["label:p1"].string_param = "cat"
    call("ModelInfer", request, pb.ModelInferResponse)
    request.parameters["label:p1"].int64_param = 3
    with pytest.raises(grpc.RpcError, match="labels: need 1 to"):
        call("ModelInfer", request, pb.ModelInferResponse)
    assert told == [("p1", "cat")]


def test_raw_in_raw_out(call: Call, tiny: bundle.Bundle) -> None:
    images, right = tiny.golden.inputs["image"], np.asarray(tiny.golden.outputs["scores"], np.float32)
    reply = call("ModelInfer", raw_request(images, id="mine", model_version="5"), pb.ModelInferResponse)
    assert (reply.id, reply.model_name, reply.model_version) == ("mine", "tiny", "5")
    assert [(output.name, output.datatype, list(output.shape)) for output in reply.outputs] == [
        ("scores", "FP32", [8, 3]),
        ("monitors", "FP32", [8, 1]),
    ]
    scores = np.frombuffer(reply.raw_output_contents[0], "<f4").reshape(8, 3)
    np.testing.assert_allclose(scores, right, atol=1e-6)
    assert not reply.outputs[0].contents.fp32_contents


def test_heads_that_differ_are_not_taken_for_each_other(call: Call, tiny: bundle.Bundle) -> None:
    images, right = tiny.golden.inputs["image"], np.asarray(tiny.golden.outputs["scores"], np.float32)
    for examples in (1, 8, 3, 1, 8):
        request = raw_request(images[:examples])
        request.inputs[0].parameters["note"].string_param = "x" * 2000 * (examples == 3)  # too long to be remembered
        reply = call("ModelInfer", request, pb.ModelInferResponse)
        scores = np.frombuffer(reply.raw_output_contents[0], "<f4").reshape(examples, 3)
        np.testing.assert_allclose(scores, right[:examples], atol=1e-6)


@pytest.mark.parametrize("examples", [10, 11, 1365, 1366])  # scores of 12 bytes each: before and after 2^7, 2^14 bytes
def test_raw_replies_of_any_length(call: Call, tiny: bundle.Bundle, examples: int) -> None:
    images, right = tiny.golden.inputs["image"], np.asarray(tiny.golden.outputs["scores"], np.float32)
    reply = call("ModelInfer", raw_request(np.resize(images, (examples, *images.shape[1:]))), pb.ModelInferResponse)
    assert [len(raw) for raw in reply.raw_output_contents] == [12 * examples, 4 * examples]
    scores = np.frombuffer(reply.raw_output_contents[0], "<f4").reshape(examples, 3)
    np.testing.assert_allclose(scores, np.resize(right, (examples, 3)), atol=1e-6)


def test_typed_in_typed_out(call: Call, tiny: bundle.Bundle) -> None:
    reply = call("ModelInfer", typed_request(tiny.golden.inputs["image"]), pb.ModelInferResponse)
    scores = np.reshape(reply.outputs[0].contents.fp32_contents, (8, 3))
    np.testing.assert_allclose(scores, np.asarray(tiny.golden.outputs["scores"], np.float32), atol=1e-6)
    assert not reply.raw_output_contents


def test_a_reply_tells_release_and_prediction(call: Call, tiny: bundle.Bundle) -> None:
    reply = call("ModelInfer", raw_request(tiny.golden.inputs["image"]), pb.ModelInferResponse)
    assert reply.parameters["release"].int64_param == 5
    assert reply.id == reply.parameters["prediction_id"].string_param != ""


def test_only_the_outputs_that_were_asked_for(call: Call, tiny: bundle.Bundle) -> None:
    wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name="monitors")]
    reply = call("ModelInfer", raw_request(tiny.golden.inputs["image"], outputs=wanted), pb.ModelInferResponse)
    assert [output.name for output in reply.outputs] == ["monitors"]
    assert len(reply.raw_output_contents) == 1


def test_health_and_metadata(call: Call, tiny: bundle.Bundle) -> None:
    assert call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    assert call("ModelReady", pb.ModelReadyRequest(name="tiny"), pb.ModelReadyResponse).ready
    assert not call("ModelReady", pb.ModelReadyRequest(name="tiny", version="4"), pb.ModelReadyResponse).ready
    assert call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse).name == "skerry-agent"
    reply = call("ModelMetadata", pb.ModelMetadataRequest(name="tiny"), pb.ModelMetadataResponse)
    assert (list(reply.versions), reply.platform) == (["5"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in reply.inputs] == [("image", "UINT8", [-1, 2, 2])]


IMAGES = np.zeros((1, 2, 2), np.uint8)
WRONG: dict[str, tuple[Callable[[], pb.ModelInferRequest], grpc.StatusCode, str]] = {
    "model": (lambda: raw_request(IMAGES, model_name="huge"), grpc.StatusCode.NOT_FOUND, "'huge'"),
    "version": (lambda: raw_request(IMAGES, model_version="4"), grpc.StatusCode.NOT_FOUND, "version '4'"),
    "shape": (
        lambda: raw_request(np.zeros((1, 2, 3), np.uint8)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "'image': expected uint8",
    ),
    "bytes": (
        lambda: raw_request(IMAGES, raw_input_contents=[b"abc"]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "'image': UINT8 [1, 2, 2] needs 4 bytes, got 3",
    ),
    "count": (
        lambda: raw_request(IMAGES, raw_input_contents=[b"abcd", b""]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "2 entries for 1 inputs",
    ),
    "values": (
        lambda: raw_request(IMAGES, raw_input_contents=[]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "'image': UINT8 [1, 2, 2] needs 4 values in uint_contents, got 0",
    ),
    "contents beside": (
        lambda: merged(typed_request(IMAGES), raw_request(IMAGES)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "'image': has contents beside raw_input_contents",
    ),
    "negative": (
        lambda: raw_request(IMAGES, inputs=[tensor("image", "UINT8", [1, -2, 2])]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "'image': shape [1, -2, 2] has a negative dimension",
    ),
    "dimensions": (
        lambda: raw_request(IMAGES, inputs=[tensor("image", "UINT8", [4] + [1] * 70)]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "'image': shape has 71 dimensions; 32 are allowed",
    ),
    "size": (
        lambda: raw_request(IMAGES, inputs=[tensor("image", "UINT8", [1 << 62, 0])], raw_input_contents=[b""]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "'image': shape [4611686018427387904, 0] is too large",
    ),
    "datatype": (
        lambda: raw_request(IMAGES, inputs=[tensor("image", "UINT9", [1, 2, 2])]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "'image': datatype 'UINT9'",
    ),
    "twice": (
        lambda: raw_request(IMAGES, inputs=[tensor("image", "UINT8", [1, 2, 2])] * 2, raw_input_contents=[b"abcd"] * 2),
        grpc.StatusCode.INVALID_ARGUMENT,
        "'image': given twice",
    ),
    "range": (lambda: typed_request(np.full((1, 2, 2), 256)), grpc.StatusCode.INVALID_ARGUMENT, "'image'"),
    "output": (
        lambda: raw_request(IMAGES, outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="logits")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "'logits'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(call: Call, tiny: bundle.Bundle, case: str) -> None:
    request, code, text = WRONG[case]
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", request(), pb.ModelInferResponse)
    error: Any = caught.value
    assert error.code() is code
    assert text in error.details()


def test_without_a_model(call: Call) -> None:
    assert not call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", raw_request(IMAGES), pb.ModelInferResponse)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_every_datatype_has_a_field_for_its_values_but_fp16() -> None:
    assert DTYPES.keys() - CONTENTS.keys() == {"FP16"}
    contents = pb.InferTensorContents()
    assert all(hasattr(contents, field) for field in CONTENTS.values())
