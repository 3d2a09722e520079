"""A network that misbehaves on demand, without root: a TCP proxy in the test's own event loop."""

import asyncio
import socket
import struct
from types import TracebackType

CHUNK = 64 << 10  # bytes


class FaultProxy:
    """Passes TCP connections on to ``host``:``port``; switch its faults at any time, also on open connections.

    >>> async with FaultProxy("localhost", 8883) as proxy:  # doctest: +SKIP
    ...     ...  # connect to proxy.port
    ...     proxy.cut()
    """

    def __init__(self, host: str, port: int) -> None:
        self.port = 0  # where it listens, on the loopback
        self.refuse = False  # reset each new connection at once
        self.cut_after: int | None = None  # reset all once so many more bytes have passed, in both directions together
        self.rate: float | None = None  # bytes a second, on each connection and in each direction; None: no limit
        self._host, self._target = host, port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "FaultProxy":
        self._server = await asyncio.start_server(self._accept, "localhost", 0, family=socket.AF_INET)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every open connection (RST, not FIN)."""
        for writer in self._writers:
            _reset(writer)
        self._writers.clear()

    def stall(self) -> None:
        """Pass nothing on, but keep connections open: a black hole."""
        self._flowing.clear()

    def resume(self) -> None:
        """End a stall; what waited is passed on."""
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            _reset(writer)
            return
        try:
            there, away = await asyncio.open_connection(self._host, self._target)
        except OSError:
            _reset(writer)
            return
        self._writers |= {writer, away}
        for source, sink in ((reader, away), (there, writer)):
            task = asyncio.ensure_future(self._pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(CHUNK):
                await self._flowing.wait()
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
                sink.write(data)
                await sink.drain()
                self._count(len(data))
            sink.close()
        except OSError:  # reset by either side: so is the other
            _reset(sink)

    def _count(self, passed: int) -> None:
        if self.cut_after is not None:
            self.cut_after -= passed
            if self.cut_after <= 0:
                self.cut_after = None
                self.cut()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
