"""An application on a device: shows pictures to the model and gets the truth a little later, as a line inspector would.

    python -m story.app FOLDER PICTURES.npz --way oip|in-process --workload NAME

PICTURES.npz holds the names of the labels, the truth, and one array of pictures for each kind of weather. A line on
standard input changes the weather. After every ``REPORT`` answers JSON lines on standard output tell how many there
were, how many were right, in which weather, and of which release.
"""

import argparse
import json
import queue
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray

from skerry_edge import Client
from skerry_edge.config import Folders
from skerry_proto.v1 import inference_pb2, services_pb2, services_pb2_grpc
from skerry_shared.errors import SkerryError

RATE = 80.0  # pictures a second
REPORT = 40  # answers
LATE = 40  # answers until the truth of one is known

Answer = tuple[str, int, int]  # prediction id, place of the top class, release


class OipApp:
    """Asks through the Open Inference Protocol over gRPC, as any stock client would."""

    def __init__(self, folder: Path, workload: str, labels: list[str]) -> None:
        folders = Folders(folder)
        self._workload, self._labels = workload, labels
        self._channel = grpc.insecure_channel(f"127.0.0.1:{folders.port.read_text()}")
        self._infer = self._channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=inference_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=inference_pb2.ModelInferResponse.FromString,
        )
        self._local = services_pb2_grpc.LocalStub(grpc.insecure_channel(f"unix:{folders.socket}"))

    def ask(self, picture: NDArray[np.uint8]) -> Answer:
        """One answer. Raises grpc.RpcError while there is no model."""
        tensor = inference_pb2.ModelInferRequest.InferInputTensor(
            name="picture", datatype="UINT8", shape=(1, *picture.shape)
        )
        request = inference_pb2.ModelInferRequest(
            model_name=self._workload, inputs=[tensor], raw_input_contents=[picture.tobytes()]
        )
        reply = self._infer(request)
        place = [output.name for output in reply.outputs].index("scores")
        scores = np.frombuffer(reply.raw_output_contents[place], np.float32)
        return reply.id, int(scores.argmax()), int(reply.model_version)

    def tell(self, truths: list[tuple[str, str]]) -> None:
        """The truth, later: pairs of prediction id and label."""
        told = [services_pb2.Truth(prediction_id=prediction, label=label) for prediction, label in truths]
        self._local.Label(services_pb2.Feedback(truths=told))


class InProcessApp:
    """Asks in its own process."""

    def __init__(self, folder: Path, _workload: str, _labels: list[str]) -> None:
        self._client = Client(folder)

    def ask(self, picture: NDArray[np.uint8]) -> Answer:
        """One answer. Raises StateError while there is no model."""
        prediction = self._client.predict({"picture": picture[None]})
        return prediction.ids[0], int(prediction.outputs["scores"][0].argmax()), prediction.release

    def tell(self, truths: list[tuple[str, str]]) -> None:
        """The truth, later: pairs of prediction id and label."""
        for prediction, label in truths:
            self._client.feedback(prediction, label)


WAYS: dict[str, Callable[[Path, str, list[str]], OipApp | InProcessApp]] = {"oip": OipApp, "in-process": InProcessApp}


def main() -> None:
    """Until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--workload", required=True)
    arguments = parser.parse_args()
    with np.load(arguments.pictures) as file:
        scenes = {name: file[name] for name in file.files}
    labels, truth = scenes.pop("names").tolist(), scenes.pop("labels")
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    _play(WAYS[arguments.way](arguments.folder, arguments.workload, labels), scenes, truth, labels, orders)


def _listen(orders: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        orders.put(line.strip())
    orders.put("stop")


def _play(
    app: OipApp | InProcessApp, scenes: dict[str, NDArray[np.uint8]], truth: NDArray[np.int64], labels: list[str],
    orders: "queue.SimpleQueue[str]",
) -> None:  # fmt: skip
    weather, shown, late, due = "clear", 0, deque[tuple[str, str]](), time.monotonic()
    seen: Counter[tuple[str, int, bool]] = Counter()
    while True:
        while not orders.empty():
            if (weather := orders.get()) == "stop":
                return
        place = shown % len(truth)
        try:
            prediction, top, release = app.ask(scenes[weather][place])
        except (SkerryError, grpc.RpcError):  # no model yet, or the agent is being restarted: ask again
            prediction, top, release = "", -1, 0
        if prediction:
            seen[weather, release, top == truth[place]] += 1
            late.append((prediction, labels[truth[place]]))
            shown += 1
        if seen.total() >= REPORT:
            if len(late) > LATE:
                app.tell([late.popleft() for _ in range(len(late) - LATE)])
            _report(seen)
            seen.clear()
        due = max(due + 1 / RATE, time.monotonic() - 1)
        time.sleep(max(0.0, due - time.monotonic()))


def _report(seen: "Counter[tuple[str, int, bool]]") -> None:
    for (weather, release, right), count in seen.items():
        line = {"weather": weather, "release": release, "right": count if right else 0, "answers": count}
        sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
