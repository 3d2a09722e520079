"""The cloud's side of gRPC links: one bidirectional stream a device, ``skerry.v1.Gateway/Link``, in this process.

A device is who its client certificate says. It has one stream: a newer one ends the older. While ingest has no room the
stream is not read, and HTTP/2 flow control holds the device back. A device that does not read what it is sent loses its
stream once ``OUTGOING`` messages wait.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from skerry_shared.errors import StateError
from skerry_shared.ports.carrier import MAX_MESSAGE, Inbox, Permit

log = logging.getLogger(__name__)

OUTGOING = 1024  # messages to one device
GRACE = 1.0  # seconds for streams to end when the server stops

OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),  # devices ping every 20 s
    ("grpc.so_reuseport", 0),  # two servers on one port is a mistake, not a cluster
]


class GrpcCarrier:
    """Serves at ``address``, host:port; port 0 picks a free one, then see ``port``."""

    name = "grpc"

    def __init__(self, address: str, certificate: bytes, key: bytes, authority: bytes, permit: Permit) -> None:
        """All PEM. Clients must show a certificate of ``authority``, and ``permit`` must agree to their name."""
        self.port = 0  # the one that is served
        self._address, self._permit = address, permit
        self._credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
        self._streams: dict[str, _Stream] = {}

    @asynccontextmanager
    async def serve(self, inbox: Inbox) -> AsyncIterator[None]:
        """See ``Carrier``. Raises StateError if the address cannot be had."""
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((self._handlers(inbox),))
        try:
            self.port = server.add_secure_port(self._address, self._credentials)
        except RuntimeError as error:
            raise StateError(f"gRPC cannot listen at {self._address}: {error}") from None
        await server.start()
        try:
            yield
        finally:
            await server.stop(GRACE)

    async def send(self, device: str, down: bytes) -> bool:
        """See ``Carrier``."""
        stream = self._streams.get(device)
        return stream is not None and stream.offer(down)

    def _handlers(self, inbox: Inbox) -> grpc.GenericRpcHandler:
        async def link(_: Any, context: Any) -> None:
            await self._link(inbox, context)

        handler: Any = grpc.stream_stream_rpc_method_handler(link)  # no serialisers: messages pass through as bytes
        return grpc.method_handlers_generic_handler("skerry.v1.Gateway", {"Link": handler})

    async def _link(self, inbox: Inbox, context: Any) -> None:
        device = context.auth_context()["x509_common_name"][0].decode()
        if not await self._permit(device):
            log.warning("grpc: %s is not permitted", device)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{device} is not a device of this fleet")
        await context.send_initial_metadata(())
        stream = _Stream(device, context, self._streams.get(device))
        self._streams[device] = stream
        try:
            await inbox.present(device, True)
            await stream.run(inbox)
        finally:
            if self._streams.get(device) is stream:
                del self._streams[device]
                await inbox.present(device, False)
        await context.abort(grpc.StatusCode.UNAVAILABLE, stream.ended)


class _Stream:
    """One device's link."""

    def __init__(self, device: str, context: Any, before: "_Stream | None") -> None:
        self.ended = ""  # why
        self._device, self._context = device, context
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue(OUTGOING)
        self._end = asyncio.Event()
        if before is not None:
            before.end("replaced by a newer link")

    def offer(self, down: bytes) -> bool:
        """Queue a message; False if the link is ending."""
        if self._end.is_set():
            return False
        try:
            self._outgoing.put_nowait(down)
        except asyncio.QueueFull:
            self.end("the device does not read")
            return False
        return True

    def end(self, why: str) -> None:
        """Let ``run`` return."""
        if not self._end.is_set():
            log.info("grpc: %s: %s", self._device, why)
            self.ended = why
            self._end.set()

    async def run(self, inbox: Inbox) -> None:
        """Until the device hangs up or the link is ended."""
        work = [asyncio.ensure_future(one) for one in (self._read(inbox), self._write(), self._end.wait())]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        self.end("the device hung up")

    async def _read(self, inbox: Inbox) -> None:
        while (up := await self._context.read()) is not grpc.aio.EOF:
            try:
                await inbox.arrived(self._device, up)
            except Exception:  # the device sends again what is not acknowledged
                log.exception("grpc: %s: a message could not be taken", self._device)

    async def _write(self) -> None:
        while True:
            await self._context.write(await self._outgoing.get())
