"""The device's link over gRPC: one bidirectional stream ``skerry.v1.Gateway/Link`` over mTLS.

grpc is imported when a link is opened: it costs 12 MB of memory, and a device with MQTT may never need it. An idle link
is pinged, so that a dead one is noticed and a NAT on the way keeps it open.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from skerry_shared.errors import LinkError
from skerry_shared.ports.carrier import MAX_MESSAGE, Link, TlsFiles

METHOD = "/skerry.v1.Gateway/Link"
KEEPALIVE = 20_000  # milliseconds between pings; the cloud allows one in 10 s
PING_TIMEOUT = 10_000  # milliseconds

OPTIONS = [
    ("grpc.keepalive_time_ms", KEEPALIVE),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.use_local_subchannel_pool", 1),  # else a new link inherits the back-off of the one that broke
]


class GrpcTransport:
    """Reaches the cloud at ``address``, host:port; the host must be a name in the cloud's certificate."""

    name = "grpc"

    def __init__(self, address: str, identity: TlsFiles) -> None:
        self._address, self._identity = address, identity

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        """See ``Transport``."""
        import grpc

        async with grpc.aio.secure_channel(self._address, _credentials(self._identity), OPTIONS) as channel:
            link = _GrpcLink(channel.stream_stream(METHOD)(), self._address)
            await link.opened()
            yield link


class _GrpcLink:
    """Messages pass through as bytes: nothing is parsed here."""

    def __init__(self, call: Any, address: str) -> None:
        self._call, self._address = call, address

    async def opened(self) -> None:
        """Return once the cloud took the link. Raises LinkError if it did not."""
        if await self._wait(self._call.initial_metadata()) is None or self._call.done():
            code, details = await self._call.code(), await self._call.details()
            raise LinkError(f"{self._address}: {code.name}: {details}")

    async def send(self, up: bytes) -> None:
        await self._wait(self._call.write(up))

    async def receive(self) -> AsyncIterator[bytes]:
        import grpc

        while (message := await self._wait(self._call.read())) is not grpc.aio.EOF:
            yield message
        raise LinkError(f"{self._address}: closed by the cloud")

    async def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """In a task of its own: grpc.aio raises CancelledError when the *other* side cancels, as if we had."""
        import grpc

        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task})
            return task.result()
        except grpc.aio.AioRpcError as error:
            raise LinkError(f"{self._address}: {error.code().name}: {error.details()}") from None
        except asyncio.InvalidStateError:
            raise LinkError(f"{self._address}: lost") from None
        except asyncio.CancelledError:
            if task.cancelled():
                raise LinkError(f"{self._address}: cancelled by the cloud") from None
            raise
        finally:
            task.cancel()


def _credentials(identity: TlsFiles) -> Any:
    import grpc

    try:
        files = [path.read_bytes() for path in (identity.authority, identity.key, identity.certificate)]
    except OSError as error:
        raise LinkError(f"cannot identify ourselves: {error}") from None
    return grpc.ssl_channel_credentials(*files)
