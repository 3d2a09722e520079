"""The cloud's end of a link, as bare as can be: acknowledges nothing, sends the assignments that it is told to."""

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

import grpc
from cryptography.hazmat.primitives import serialization

from skerry_proto.v1 import telemetry_pb2 as pb
from skerry_shared import identity


class Gateway:
    """Serves from construction until ``close``."""

    def __init__(self, authority: identity.Authority) -> None:
        self._links: list[queue.SimpleQueue[pb.Down | None]] = []
        self._desired: pb.Down | None = None
        handler = grpc.stream_stream_rpc_method_handler(self._link, pb.Up.FromString, pb.Down.SerializeToString)
        self._server = grpc.server(ThreadPoolExecutor(8))
        service = grpc.method_handlers_generic_handler("skerry.v1.Gateway", {"Link": handler})
        self._server.add_generic_rpc_handlers([service])
        key = identity.new_key()
        certificate = authority.issue_server(key, ("127.0.0.1",), datetime.now(timezone.utc), 1)
        trusted = authority.certificate.public_bytes(serialization.Encoding.PEM)
        pair = [(identity.private_pem(key), certificate)]
        self.port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair, trusted, True))
        self._server.start()

    def assign(self, assignment: bytes) -> None:
        self._desired = pb.Down(desired=assignment)
        for downs in self._links:
            downs.put(self._desired)

    def close(self) -> None:
        for downs in self._links:
            downs.put(None)
        self._server.stop(0).wait()

    def _link(self, _: Any, context: grpc.ServicerContext) -> Iterator[pb.Down]:
        context.send_initial_metadata(())
        downs: queue.SimpleQueue[pb.Down | None] = queue.SimpleQueue()
        context.add_callback(lambda: downs.put(None))
        self._links.append(downs)
        if self._desired:
            downs.put(self._desired)
        return iter(downs.get, None)
