"""The frames protocol: the client against the server, and a hostile client against the server."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_edge.infer.engine import Active, Engine
from skerry_edge.infer.scheduler import Limits
from skerry_edge.serve import frames, socket_server
from skerry_edge.serve.socket_client import SocketClient
from skerry_edge.serve.socket_server import SocketServer
from skerry_shared import errors
from skerry_shared.errors import DeadlineError, InputError, LinkError, ModelError, NotFoundError, StateError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.release import ANY, Lineage, Manifest, Measured, Target, TensorSpec

MANIFEST = Manifest(
    "tiny", 4, "tests", ("a", "b"), (TensorSpec("x", "float32", (ANY, ANY)), TensorSpec("n", "int8", (ANY,))), (),
    Target("p", "x86_64", "onnxruntime", "int8"), Measured(1, 1, 1, 0), Lineage(1, "", 1, ""), (), 0.1, "model.onnx",
)  # fmt: skip


class Negative:
    """x → -x, and n as it came; refuses 13."""

    def __init__(self) -> None:
        self.open, self.began = threading.Event(), threading.Event()
        self.open.set()

    def run(self, inputs: Tensors) -> Tensors:
        self.began.set()
        self.open.wait(10)
        if (inputs["n"] == 13).any():
            raise ModelError("thirteen")
        return {"y": -inputs["x"].astype(np.float32), "m": inputs["n"].copy()}


class Served:
    def __init__(self, folder: Path) -> None:
        self.path, self.model, self.engine = folder / "infer.sock", Negative(), Engine()
        self.labels: list[Any] = []
        self.engine.swap(Active(MANIFEST, self.model, lambda *_: None, limits=Limits(threads=4)))
        self.server = SocketServer(self.path, self.engine, self.labels.extend)

    def dial(self) -> socket.socket:
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        raw.settimeout(10)
        raw.connect(str(self.path))
        return raw


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.model.open.set()
    made.server.stop(5)


@pytest.fixture
def client(served: Served) -> Iterator[SocketClient]:
    with SocketClient(served.path) as made:
        yield made


def inputs(rows: int = 1, columns: int = 3, seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {"x": draw.normal(size=(rows, columns)).astype(np.float32), "n": np.arange(rows, dtype=np.int8) % 13}


def answers_well(client: SocketClient, asked: Tensors) -> None:
    answer = client.predict(asked)
    assert (answer.model, answer.release, len(answer.prediction_id)) == ("tiny", 4, 24)
    np.testing.assert_array_equal(answer.outputs["y"], -asked["x"].astype(np.float32))
    np.testing.assert_array_equal(answer.outputs["m"], asked["n"])


def test_small_and_large_tensors(client: SocketClient) -> None:
    for rows, columns in ((1, 3), (5, 7), (1, 100_000), (1, 3), (3, 400_000), (1, 50_000)):
        answers_well(client, inputs(rows, columns, seed=rows))


def test_answers_are_the_callers_to_keep(client: SocketClient) -> None:
    for columns in (3, 100_000):
        asked = [inputs(1, columns, seed) for seed in range(3)]
        answers = [client.predict(one).outputs["y"] for one in asked]
        answers[2][:] = 0
        np.testing.assert_array_equal(answers[0], -asked[0]["x"])
        np.testing.assert_array_equal(answers[1], -asked[1]["x"])


def test_arrays_that_lie_in_shared_memory(client: SocketClient) -> None:
    lent = client.shared({"x": ("float32", (1, 100_000)), "n": ("int8", (1,))})
    for value in range(3):
        lent["x"][:], lent["n"][:] = value, value
        answers_well(client, lent)
        assert client._own is None and client._attached is client._lent


def test_shared_arrays_are_the_applications_to_write(client: SocketClient) -> None:
    lent = client.shared({"x": ("float32", (300, 300)), "n": ("int8", (300,))})
    lent["x"][:] = np.arange(90_000).reshape(300, 300)
    answers_well(client, {"x": lent["x"].T, "n": lent["n"]})
    answers_well(client, inputs(1, 90_000))
    np.testing.assert_array_equal(lent["x"], np.arange(90_000).reshape(300, 300))


def test_any_byte_order(client: SocketClient) -> None:
    asked = inputs(2)
    answers_well(client, asked | {"x": asked["x"].astype(">f4")})


@pytest.mark.parametrize(
    ("asked", "options", "error", "message"),
    [
        ({"x": np.zeros((1, 3), np.float64), "n": np.zeros(1, np.int8)}, {}, InputError, "input 'x': expected float32"),
        ({}, {}, InputError, "input 'x': missing"),
        (inputs(), {"model": "nose"}, NotFoundError, "model 'nose': not here"),
        ({"x": np.zeros((1, 3), np.float32), "n": np.full(1, 13, np.int8)}, {}, ModelError, "thirteen"),
        (inputs(), {"timeout_s": -1}, DeadlineError, "deadline"),
        ({"x": np.array(["a"]), "n": np.zeros(1, np.int8)}, {}, InputError, "is not possible; dtypes: bool"),
        ({f"{i}": np.zeros(1, np.int8) for i in range(65)}, {}, InputError, "at most 64 tensors"),
    ],
)
def test_errors_arrive_as_what_they_are(
    client: SocketClient, asked: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        client.predict(asked, **options)
    answers_well(client, inputs())


def test_without_a_model_and_without_an_agent(served: Served, client: SocketClient, tmp_path: Path) -> None:
    served.engine.drop("tiny")
    with pytest.raises(StateError, match="no model"):
        client.predict(inputs())
    with SocketClient(tmp_path / "nothing.sock") as other, pytest.raises(LinkError, match=r"nothing\.sock"):
        other.predict(inputs())


def test_a_client_finds_an_agent_that_was_started_again(served: Served, client: SocketClient) -> None:
    answers_well(client, inputs(1, 100_000))
    served.server.stop(5)
    with pytest.raises(LinkError):
        client.predict(inputs())
    served.server = SocketServer(served.path, served.engine, served.labels.extend)
    answers_well(client, inputs(1, 100_000))


def test_labels(served: Served, client: SocketClient) -> None:
    client.feedback([("p", "cat"), ("q", "dog")])
    assert served.labels == [("p", "cat"), ("q", "dog")]
    with pytest.raises(InputError, match="labels: need 1 to"):
        client.feedback([("p", "")])


def test_a_stop_lets_the_request_in_flight_end(served: Served, client: SocketClient) -> None:
    served.model.open.clear()
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(client.predict(inputs())))
    thread.start()
    assert served.model.began.wait(10)
    stopping = threading.Thread(target=served.server.stop, args=(10,))
    stopping.start()
    served.model.open.set()
    stopping.join(10)
    thread.join(10)
    assert len(answers) == 1


def test_many_clients_at_once(served: Served) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            with SocketClient(served.path) as one:
                for i in range(50):
                    answers_well(one, inputs(1 + i % 3, 40_000 if i % 10 == 0 else 5, seed * 100 + i))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []


def test_more_connections_than_are_taken(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_server, "CONNECTIONS", 1)
    with SocketClient(served.path) as first, SocketClient(served.path) as second:
        answers_well(first, inputs())
        with pytest.raises((errors.OverloadError, LinkError)):  # it may hang up before the request is written
            second.predict(inputs())
        assert served.server.refused == 1
        answers_well(first, inputs())


def frame(kind: int = frames.ASK, flags: int = 0, header: bytes = b"{}", body: int = 0, rest: bytes = b"") -> bytes:
    return frames.PREFIX.pack(kind, flags, len(header), body, 0, b"") + header + rest


HEADER = json.dumps({"tensors": [["x", "float32", [1, 3]], ["n", "int8", [1]]]}).encode()


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (frame(kind=9), b"not within the limits"),
        (frame(body=1 << 40), b"not within the limits"),
        (frame(header=b"nonsense"), b"no header"),
        (frame(header=b"[]"), b"no header"),
        (frame(header=b"[" * 60_000), b"no header"),
        (frame(header=b'{"tensors":[["x","float32",[-1]]]}'), b"is not possible"),
        (frame(header=b'{"tensors":[["x","float32",[1]],["x","float32",[1]]]}'), b"each once"),
        (frame(header=HEADER, body=8, rest=bytes(8)), b"its header names 65 bytes"),
        (frame(header=HEADER, body=65, flags=frames.IN_SHARED), b"shared memory, which has not as many"),
        (frame(header=b'{"tensors":[],"colour":1}'), b"colour: 1 is not possible"),
        (frame(header=b'{"tensors":[],"priority":true}'), b"priority: True is not possible"),
        (frame(kind=frames.ANSWER), b"for the agent to send"),
        (frame(kind=frames.LABELS, header=b'{"tensors":[],"labels":[["a",1]]}'), b"labels: need"),
    ],
)
def test_nonsense_is_answered_and_hurts_nobody(served: Served, client: SocketClient, sent: bytes, told: bytes) -> None:
    with served.dial() as raw:
        raw.sendall(sent)
        assert told in raw.recv(1 << 16)
    answers_well(client, inputs())


def test_cut_frames_and_early_ones_end_the_connection_only(served: Served, client: SocketClient) -> None:
    with served.dial() as raw:
        raw.sendall(frame(header=HEADER, body=65)[:60])
    with served.dial() as raw:
        raw.sendall(2 * frame(header=HEADER, body=65, rest=bytes(65)))
        assert raw.recv(1) == b""
    answers_well(client, inputs())


def descriptors(case: str, folder: Path) -> list[int]:
    if case == "none":
        return []
    if case == "file":
        (folder / "file").write_bytes(bytes(4096))
        return [os.open(folder / "file", os.O_RDWR)]
    made = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(made, 0 if case == "empty" else 4096)
    return [made]


@pytest.mark.parametrize("case", ["none", "file", "unsealed", "empty"])
def test_memory_that_could_vanish_is_refused(served: Served, client: SocketClient, case: str, tmp_path: Path) -> None:
    given_away = descriptors(case, tmp_path)
    with served.dial() as raw:
        raw.sendall(frame(kind=frames.ATTACH, header=b""))
        raw.recv(frames.PREFIX.size)
        socket.send_fds(raw, [b"\0"], given_away)
        reply = raw.recv(1 << 16)
    assert reply == b"" if case == "none" else b"shared memory: " in reply
    for descriptor in given_away:
        os.close(descriptor)
    answers_well(client, inputs())


def test_nothing_is_left_of_a_client(served: Served) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - links may vanish meanwhile

    before = open_files()
    for _ in range(5):
        with SocketClient(served.path) as one:
            answers_well(one, inputs(1, 100_000))
        del one
    until = time.monotonic() + 10
    while open_files() > before:
        assert time.monotonic() < until
        time.sleep(0.01)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_an_input_error(data: bytes) -> None:
    try:
        head = frames.parse(data)
    except InputError:
        return
    assert head.size >= 0


SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@given(st.lists(st.tuples(st.sampled_from(sorted(frames.DTYPES)), SHAPES), max_size=5), st.integers(0, 100))
def test_what_is_placed_is_found(specs: list[Any], start: int) -> None:
    tensors = {f"t{i}": np.full(shape, i, dtype) for i, (dtype, shape) in enumerate(specs)}
    head = frames.parse(frames.header({}, tensors))
    body = bytearray(start + head.size)
    frames.place(head, tensors, body, start)
    assert frames.joined(head, tensors) == bytes(body[start:])
    for name, array in frames.views(head, body, start).items():
        np.testing.assert_array_equal(array, tensors[name])


def test_the_client_loads_neither_runtime_nor_grpc() -> None:
    code = "import skerry_edge, sys; skerry_edge.SocketClient('/nowhere'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"onnxruntime", "grpc", "google.protobuf"} & set(done.stdout.split())
