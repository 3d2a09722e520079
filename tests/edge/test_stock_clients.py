"""Triton's own clients against the agent's servers, in one process with our stubs; nothing is adapted to either."""

import queue
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from skerry_edge.serve.oip import STREAMS
from skerry_proto.v1 import inference_pb2 as pb
from skerry_shared import bundle

REASON = "tritonclient is not installed; the extra [dev] has it"
grpcclient: Any = pytest.importorskip("tritonclient.grpc", reason=REASON)
httpclient: Any = pytest.importorskip("tritonclient.http", reason=REASON)
InferenceServerException: Any = pytest.importorskip("tritonclient.utils", reason=REASON).InferenceServerException

WIRES = ("grpc", "http-binary", "http-json")


class Stock:
    """A stock client; ``module`` is its library."""

    def __init__(self, wire: str, ports: dict[str, int]) -> None:
        self.wire, self.module = wire, grpcclient if wire == "grpc" else httpclient
        self.client = self.module.InferenceServerClient(f"127.0.0.1:{ports[wire.partition('-')[0]]}")

    def inputs(self, images: np.ndarray[Any, Any], name: str = "image", datatype: str = "UINT8") -> list[Any]:
        tensor = self.module.InferInput(name, images.shape, datatype)
        form = {} if self.wire == "grpc" else {"binary_data": self.wire == "http-binary"}
        tensor.set_data_from_numpy(images, **form)
        return [tensor]

    def outputs(self, *names: str) -> list[Any]:
        form = {} if self.wire == "grpc" else {"binary_data": self.wire == "http-binary"}
        return [self.module.InferRequestedOutput(name, **form) for name in names]

    def json(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """A reply as JSON; gRPC's has numbers of 64 bits as text."""
        return call(*arguments, **options | ({"as_json": True} if self.wire == "grpc" else {}))


@pytest.fixture(params=WIRES)
def stock(request: pytest.FixtureRequest, ports: dict[str, int]) -> Iterator[Stock]:
    stock = Stock(request.param, ports)
    yield stock
    stock.client.close()


def right(tiny: bundle.Bundle) -> Any:
    return np.asarray(tiny.golden.outputs["scores"], np.float32)


def test_health(stock: Stock, tiny: bundle.Bundle) -> None:
    assert stock.client.is_server_live()
    assert stock.client.is_server_ready()
    assert stock.client.is_model_ready("tiny")
    assert stock.client.is_model_ready("tiny", "5")
    assert not stock.client.is_model_ready("tiny", "4")
    assert not stock.client.is_model_ready("huge")


def test_metadata_and_configuration(stock: Stock, tiny: bundle.Bundle) -> None:
    server = stock.json(stock.client.get_server_metadata)
    assert set(server["extensions"]) >= {"binary_tensor_data", "model_repository", "model_configuration", "statistics"}
    metadata = stock.json(stock.client.get_model_metadata, "tiny", model_version="5")
    assert [(t["name"], t["datatype"], list(map(int, t["shape"]))) for t in metadata["inputs"]] == [
        ("image", "UINT8", [-1, 2, 2])
    ]
    config = stock.json(stock.client.get_model_config, "tiny")
    config = config.get("config", config)
    assert (config["name"], config["max_batch_size"], config["input"][0]["data_type"]) == ("tiny", 1024, "TYPE_UINT8")
    assert list(map(int, config["input"][0]["dims"])) == [2, 2]


def test_inference(stock: Stock, tiny: bundle.Bundle) -> None:
    images = tiny.golden.inputs["image"]
    result = stock.client.infer("tiny", stock.inputs(images), model_version="5", request_id="mine")
    np.testing.assert_allclose(result.as_numpy("scores"), right(tiny), atol=1e-6)
    assert result.as_numpy("monitors").shape == (8, 1)
    response = result.get_response(as_json=True) if stock.wire == "grpc" else result.get_response()
    assert (response["id"], response["model_version"]) == ("mine", "5")


def test_inference_with_outputs_and_parameters(stock: Stock, tiny: bundle.Bundle) -> None:
    result = stock.client.infer(
        "tiny", stock.inputs(tiny.golden.inputs["image"]), outputs=stock.outputs("scores"),
        priority=1, timeout=10_000_000, parameters={"who": "tests"},
    )  # fmt: skip
    np.testing.assert_allclose(result.as_numpy("scores"), right(tiny), atol=1e-6)
    assert result.as_numpy("monitors") is None


def test_inference_in_the_background(stock: Stock, tiny: bundle.Bundle) -> None:
    images, done = tiny.golden.inputs["image"], queue.Queue[Any]()
    if stock.wire == "grpc":
        stock.client.async_infer("tiny", stock.inputs(images), lambda result, error: done.put((result, error)))
        result, error = done.get(timeout=10)
        assert error is None
    else:
        result = stock.client.async_infer("tiny", stock.inputs(images)).get_result(timeout=10)
    np.testing.assert_allclose(result.as_numpy("scores"), right(tiny), atol=1e-6)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(stock: Stock, tiny: bundle.Bundle, algorithm: str) -> None:
    inputs = stock.inputs(tiny.golden.inputs["image"])
    name = "compression_algorithm" if stock.wire == "grpc" else "request_compression_algorithm"
    result = stock.client.infer("tiny", inputs, **{name: algorithm})
    np.testing.assert_allclose(result.as_numpy("scores"), right(tiny), atol=1e-6)


def test_repository(stock: Stock, tiny: bundle.Bundle) -> None:
    index = stock.json(stock.client.get_model_repository_index)
    (entry,) = index["models"] if stock.wire == "grpc" else index
    assert (entry["name"], entry["version"], entry["state"]) == ("tiny", "5", "READY")
    stock.client.load_model("tiny")
    with pytest.raises(InferenceServerException, match="the fleet's assignment"):
        stock.client.unload_model("tiny")
    assert stock.client.is_model_ready("tiny")


def test_statistics(stock: Stock, tiny: bundle.Bundle) -> None:
    for _ in range(3):
        stock.client.infer("tiny", stock.inputs(tiny.golden.inputs["image"]))
    (found,) = stock.json(stock.client.get_inference_statistics, "tiny")["model_stats"]
    assert int(found["inference_stats"]["success"]["count"]) == int(found["execution_count"]) == 3
    assert int(found["inference_count"]) == 24


def test_errors(stock: Stock, tiny: bundle.Bundle) -> None:
    images = tiny.golden.inputs["image"]
    wrong: tuple[tuple[str, str, list[Any], dict[str, Any]], ...] = (
        ("NOT_FOUND 404", "'huge'", stock.inputs(images), {"model_name": "huge"}),
        ("NOT_FOUND 404", "version '4'", stock.inputs(images), {"model_version": "4"}),
        ("INVALID_ARGUMENT 400", "'picture': unknown", stock.inputs(images, "picture"), {}),
        ("INVALID_ARGUMENT 400", "'image': expected uint8", stock.inputs(images[:, :1]), {}),
        ("INVALID_ARGUMENT 400", "'image': expected uint8",
         stock.inputs(images.astype(np.float32), datatype="FP32"), {}),
        ("INVALID_ARGUMENT 400", "'logits': unknown", stock.inputs(images), {"outputs": stock.outputs("logits")}),
        ("DEADLINE_EXCEEDED 504", "deadline", stock.inputs(images), {"timeout": 1}),
    )  # fmt: skip
    for status, text, inputs, options in wrong:
        with pytest.raises(InferenceServerException, match=text) as caught:
            stock.client.infer(**{"model_name": "tiny", "inputs": inputs} | options)
        assert caught.value.status().rpartition(".")[2] in status.split()


def test_without_a_model(stock: Stock) -> None:
    assert stock.client.is_server_live()
    assert not stock.client.is_server_ready()
    with pytest.raises(InferenceServerException, match="no model is installed yet") as caught:
        stock.client.infer("tiny", stock.inputs(np.zeros((1, 2, 2), np.uint8)))
    assert caught.value.status() in ("StatusCode.UNAVAILABLE", "503")


def test_a_stream(ports: dict[str, int], tiny: bundle.Bundle) -> None:
    stock, answers = Stock("grpc", ports), queue.Queue[Any]()
    stock.client.start_stream(lambda result, error: answers.put((result, error)))
    images = tiny.golden.inputs["image"]
    for name, request_id in (("tiny", "1"), ("huge", "2"), ("tiny", "3")):
        stock.client.async_stream_infer(name, stock.inputs(images), request_id=request_id)
    first, wrong, third = (answers.get(timeout=10) for _ in range(3))
    stock.client.stop_stream()
    stock.client.close()
    np.testing.assert_allclose(first[0].as_numpy("scores"), right(tiny), atol=1e-6)
    assert "'huge'" in str(wrong[1])
    assert third[0].get_response().id == "3"


def test_more_streams_than_there_are_places_are_refused(ports: dict[str, int], tiny: bundle.Bundle) -> None:
    clients, answers = [Stock("grpc", ports) for _ in range(STREAMS + 1)], queue.Queue[Any]()
    for i, stock in enumerate(clients):
        stock.client.start_stream(lambda result, error: answers.put((result, error)))
        if i < STREAMS:
            stock.client.async_stream_infer("tiny", stock.inputs(tiny.golden.inputs["image"]))
            assert answers.get(timeout=10)[1] is None
    assert "streams are open already" in str(answers.get(timeout=10)[1])
    for stock in clients:
        stock.client.stop_stream(cancel_requests=True)
        stock.client.close()


def test_both_sets_of_stubs_live_in_one_process() -> None:
    theirs = grpcclient.service_pb2.ModelInferRequest(model_name="tiny", id="1")
    ours = pb.ModelInferRequest.FromString(theirs.SerializeToString())
    assert (ours.model_name, ours.id) == ("tiny", "1")
    assert theirs.DESCRIPTOR.full_name == "inference.ModelInferRequest"


def test_field_numbers_are_tritons() -> None:
    from tritonclient.grpc import model_config_pb2, service_pb2

    theirs = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}
    for name, message in pb.DESCRIPTOR.message_types_by_name.items():
        for field in message.fields:
            other = theirs[name].fields_by_name[field.name]
            assert (field.number, field.type) == (other.number, other.type), f"{name}.{field.name}"
    types = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"]
    assert dict(pb.DataType.items()) == {value.name: value.number for value in types.values}
