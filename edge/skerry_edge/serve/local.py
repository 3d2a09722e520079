"""Service skerry.v1.Local: applications that run the model in their own process report through the agent.

Only on the agent's Unix socket, in a folder that only the agent's user may enter: whoever reaches it may report.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import grpc

from skerry_edge.serve import truths
from skerry_edge.serve.oip import unary
from skerry_edge.serve.truths import AT_ONCE, Learn
from skerry_proto.v1 import services_pb2 as pb
from skerry_proto.v1.services_pb2_grpc import LocalStub
from skerry_shared import telemetry
from skerry_shared.errors import InputError

log = logging.getLogger(__name__)

SERVICE = "skerry.v1.Local"
TABLES = ("windows", "samples", "load", "service")  # labels have a call of their own; events are the agent's to tell
WAITING_BYTES = telemetry.MAX_BATCH  # of reports that may wait: some batches of samples, or weeks of counts
OVERHEAD = 200  # bytes of memory that a report takes beside its payload
TOGETHER_S = 1.0  # in which late labels go in one call
CLOSE_S = 2.0  # seconds that closing waits for an agent; it answers after an fsync

Sink = Callable[[str, bytes], None]  # (table, packed rows)


def handlers(sink: Sink, label: Learn) -> grpc.GenericRpcHandler:
    """The service as a handler; ``label`` takes pairs of prediction id and label."""

    def submit(report: pb.Report) -> pb.Reported:
        if report.table not in TABLES:
            raise InputError(f"table: {report.table!r}; an application may report {', '.join(TABLES)}")
        telemetry.unpack(report.payload)  # refuse here what the cloud would refuse
        sink(report.table, report.payload)
        return pb.Reported()

    def feedback(given: pb.Feedback) -> pb.Reported:
        label(truths.checked([(truth.prediction_id, truth.label) for truth in given.truths]))
        return pb.Reported()

    methods = {"Submit": unary(submit, pb.Report), "Label": unary(feedback, pb.Feedback)}
    return grpc.method_handlers_generic_handler(SERVICE, methods)


class Reporter:
    """The application's end: hands reports to the agent in a thread of its own, so that predictions never wait.

    Reports wait while no agent answers, counts before samples. When they are too many bytes the oldest samples are
    dropped and counted, and other reports only if no samples are left. A report is sent once at most: one that may have
    arrived is not sent again, for counts that arrive twice would be wrong. Late labels go together, about once a second
    and before all that waits.
    """

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self._stub = LocalStub(self._channel)
        self._counts, self._samples = deque[pb.Report](), deque[pb.Report]()
        self._bytes = 0  # that these take
        self._truths = deque[pb.Truth]()
        self._changed, self._closing = threading.Condition(), False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="skerry-reports", daemon=True)
        self._thread.start()

    def submit(self, table: str, payload: bytes) -> None:
        """A finished batch, packed."""
        with self._changed:
            if self._closing:
                self.dropped += 1
                return
            (self._samples if table == "samples" else self._counts).append(pb.Report(table=table, payload=payload))
            self._bytes += len(payload) + OVERHEAD
            while self._bytes > WAITING_BYTES:
                self._pop(self._samples or self._counts)
                self.dropped += 1
            self._changed.notify()

    def label(self, prediction_id: str, label: str) -> None:
        """The late truth of a prediction."""
        with self._changed:
            if self._closing:
                self.dropped += 1
                return
            if len(self._truths) >= AT_ONCE:
                self._truths.popleft()
                self.dropped += 1
            self._truths.append(pb.Truth(prediction_id=prediction_id, label=label))

    def close(self) -> None:
        """Send what waits, if the agent is there, and stop. What is handed over later is dropped and counted."""
        with self._changed:
            self._closing, before = True, self.dropped
            self._changed.notify()
        self._thread.join(CLOSE_S)
        with self._changed:
            self.dropped += len(self._counts) + len(self._samples) + len(self._truths)
            for queue in (self._counts, self._samples, self._truths):
                queue.clear()
        self._channel.close()  # cancels a call that still waits for an agent
        self._thread.join()
        if lost := self.dropped - before:
            log.warning("closed before the agent took %d of the reports and late labels", lost)

    def _pop(self, queue: deque[pb.Report]) -> pb.Report:
        """Its first report. Holds the lock."""
        report = queue.popleft()
        self._bytes -= len(report.payload) + OVERHEAD
        return report

    def _run(self) -> None:
        due = time.monotonic() + TOGETHER_S
        while not self._closing:
            self._send_report(max(0.0, due - time.monotonic()))
            if time.monotonic() >= due:
                due = time.monotonic() + TOGETHER_S
                self._send_truths()
        self._send_truths()
        while self._send_report(0):
            pass

    def _send_report(self, patience_s: float) -> bool:
        """Send the next one, if there is one within so many seconds; was there?"""
        with self._changed:
            self._changed.wait_for(lambda: self._counts or self._samples or self._closing, patience_s)
            queue = self._counts or self._samples
            report = self._pop(queue) if queue else None
        if report:
            self._call(self._stub.Submit, report, 1)
        return report is not None

    def _send_truths(self) -> None:
        with self._changed:
            truths = [self._truths.popleft() for _ in range(len(self._truths))]
        if truths:
            self._call(self._stub.Label, pb.Feedback(truths=truths), len(truths))

    def _call(self, method: Callable[..., object], message: pb.Report | pb.Feedback, size: int) -> None:
        try:
            method(message, wait_for_ready=True)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed meanwhile
            with self._changed:
                self.dropped += size
            if not self._closing:
                reason = error.details() if isinstance(error, grpc.Call) else error
                log.warning("%d of the reports and late labels dropped: %s", size, reason)
