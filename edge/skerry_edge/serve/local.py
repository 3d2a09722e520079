"""Service skerry.v1.Local: applications that run the model in their own process report through the agent.

Only on the agent's Unix socket, in a folder that only the agent's user may enter: whoever reaches it may report.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import grpc

from skerry_edge.serve.oip import unary
from skerry_proto.v1 import services_pb2 as pb
from skerry_proto.v1.services_pb2_grpc import LocalStub
from skerry_shared import telemetry
from skerry_shared.errors import InputError

log = logging.getLogger(__name__)

SERVICE = "skerry.v1.Local"
TABLES = ("windows", "samples", "labels")  # events are the agent's own to tell
MAX_LABEL = 1024  # characters of a prediction id or a label
WAITING = 256  # reports that may wait for the agent; older ones give way
TICK_S = 1.0  # how late a report may be
CLOSE_S = 2.0  # seconds that closing waits for an agent; it answers after an fsync

Sink = Callable[[str, bytes], None]  # (table, packed rows)


def handlers(sink: Sink, label: Callable[[str, str], None]) -> grpc.GenericRpcHandler:
    """The service as a handler; ``label`` takes (prediction id, label)."""

    def submit(report: pb.Report) -> pb.Reported:
        if report.table not in TABLES:
            raise InputError(f"table: {report.table!r}; an application may report {', '.join(TABLES)}")
        telemetry.unpack(report.payload)  # refuse here what the cloud would refuse
        sink(report.table, report.payload)
        return pb.Reported()

    def feedback(given: pb.Feedback) -> pb.Reported:
        if not 0 < len(given.prediction_id) <= MAX_LABEL or not 0 < len(given.label) <= MAX_LABEL:
            raise InputError(f"prediction_id, label: need 1 to {MAX_LABEL} characters")
        label(given.prediction_id, given.label)
        return pb.Reported()

    methods = {"Submit": unary(submit, pb.Report), "Label": unary(feedback, pb.Feedback)}
    return grpc.method_handlers_generic_handler(SERVICE, methods)


class Reporter:
    """The application's end: hands reports to the agent in a thread of its own, so that predictions never wait.

    Reports wait while no agent answers; when too many wait the oldest are dropped and counted. A report is sent once at
    most: one that may have arrived is not sent again, for counts that arrive twice would be wrong.
    """

    def __init__(self, socket: Path, tick: Callable[[], None]) -> None:
        """``tick`` is called about once a second in this thread while no report waits; it may report."""
        self._tick = tick
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self._stub = LocalStub(self._channel)
        self._queue: deque[pb.Report | pb.Feedback] = deque()
        self._changed, self._closing = threading.Condition(), False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="skerry-reports", daemon=True)
        self._thread.start()

    def submit(self, table: str, payload: bytes) -> None:
        """A finished batch; this is a Sink."""
        self._put(pb.Report(table=table, payload=payload))

    def label(self, prediction_id: str, label: str) -> None:
        """The late truth of a prediction."""
        self._put(pb.Feedback(prediction_id=prediction_id, label=label))

    def close(self) -> None:
        """Send what waits, if the agent is there, and stop."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_S)
        with self._changed:
            self.dropped += len(self._queue)
            self._queue.clear()
        self._channel.close()  # cancels a call that still waits for an agent
        self._thread.join()

    def _put(self, message: pb.Report | pb.Feedback) -> None:
        with self._changed:
            if len(self._queue) >= WAITING:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(message)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing, TICK_S)
                if self._closing and not self._queue:
                    return
                message = self._queue.popleft() if self._queue else None
            if message is None:
                self._tick()
            else:
                self._send(message)

    def _send(self, message: pb.Report | pb.Feedback) -> None:
        try:
            if isinstance(message, pb.Feedback):
                self._stub.Label(message, wait_for_ready=True)
            else:
                self._stub.Submit(message, wait_for_ready=True)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed meanwhile
            self.dropped += 1
            log.warning("report dropped: %s", error)
