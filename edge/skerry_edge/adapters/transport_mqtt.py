"""The device's link over MQTT 5: QoS 1, TLS 1.3 with the device's certificate, through any broker that ties topics to
the certificate's name (see ``skerry_shared.mqtt``).

paho runs the connection in a thread of its own; its callbacks only post to the event loop. It never reconnects by
itself: a lost link raises LinkError, and the uplink decides. paho is imported when a link is opened.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from skerry_shared import mqtt
from skerry_shared.errors import LinkError
from skerry_shared.mqtt import DESIRED, OFFLINE, ONLINE, tls, topic
from skerry_shared.ports.carrier import Link, TlsFiles

if TYPE_CHECKING:
    from paho.mqtt.client import Client
    from paho.mqtt.reasoncodes import ReasonCode

KEEPALIVE = 20  # seconds between pings
IN_FLIGHT = 20  # messages that the broker has not confirmed
INCOMING = 1024  # messages that the agent has not read
NO_SUBSCRIBER = 0x10  # reason code: the broker has nobody to pass the message to
PARTING = 1.0  # seconds for the broker to take our leave

T = TypeVar("T")


class MqttTransport:
    """Reaches the cloud over the broker at ``host``:``port``; ``host`` must be a name in the broker's certificate."""

    name = "mqtt"

    def __init__(self, host: str, port: int, fleet: str, device: str, identity: TlsFiles) -> None:
        self._host, self._port, self._identity = host, port, identity
        self._fleet, self._device = fleet, device

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        """See ``Transport``."""
        where = f"{self._host}:{self._port}"
        client = _client(self._device, self._identity)
        link = _MqttLink(client, lambda leaf: topic(self._fleet, self._device, leaf), mqtt.up(self._device), where)
        try:
            await asyncio.to_thread(client.connect, self._host, self._port, KEEPALIVE)
        except OSError as error:  # ssl.SSLError is one
            raise LinkError(f"{where}: {error}") from None
        try:
            await link.open()
            yield link
        finally:
            await link.close()


class _MqttLink:
    def __init__(self, client: "Client", name: Callable[[str], str], up: str, where: str) -> None:
        self._client, self._name, self._up, self._where = client, name, up, where
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[str] = self._loop.create_future()
        self._subscribed: asyncio.Future[str] = self._loop.create_future()
        self._lost: asyncio.Future[str] = self._loop.create_future()  # why
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._downs: asyncio.Queue[bytes] = asyncio.Queue(INCOMING)
        client.will_set(name("status"), OFFLINE, qos=1, retain=True)
        client.on_connect = lambda _c, _u, _f, code, _p: self._post(self._answered, self._connected, [code])
        client.on_subscribe = lambda _c, _u, _m, codes, _p: self._post(self._answered, self._subscribed, codes)
        client.on_publish = lambda _c, _u, _m, code, _p: self._post(self._confirmed, code)
        client.on_disconnect = lambda _c, _u, _f, code, _p: self._post(self._settle, self._lost, str(code))
        client.on_message = lambda _c, _u, message: self._post(self._arrived, message.payload)

    async def open(self) -> None:
        """Return once we can listen and somebody listens to us. Raises LinkError."""
        self._client.loop_start()
        await self._unless_lost(self._connected)
        self._client.subscribe([(self._name(DESIRED), 1), (self._name("ack"), 1)])
        await self._unless_lost(self._subscribed)
        await self._publish("status", ONLINE, retain=True)

    async def send(self, up: bytes) -> None:
        await self._publish(self._up, up)

    async def receive(self) -> AsyncIterator[bytes]:
        while True:
            yield await self._unless_lost(self._downs.get())

    async def close(self) -> None:
        """Part in order, last will included, as far as the link still carries it; end paho's thread."""
        if self._connected.done() and not self._lost.done():
            _say_goodbye(self._client)
            await asyncio.wait({self._lost}, timeout=PARTING)
        await asyncio.to_thread(_end, self._client)

    async def _publish(self, leaf: str, payload: bytes, retain: bool = False) -> None:
        await self._unless_lost(self._room.acquire())  # given back when the broker confirms
        if self._client.publish(self._name(leaf), payload, qos=1, retain=retain).rc:
            raise LinkError(f"{self._where}: lost")

    async def _unless_lost(self, work: Awaitable[T]) -> T:
        task = asyncio.ensure_future(work)
        try:
            both: set[asyncio.Future[Any]] = {task, self._lost}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if self._lost.done():
                raise LinkError(f"{self._where}: {self._lost.result()}")
            return task.result()
        finally:
            task.cancel()

    def _post(self, handle: Callable[..., None], *values: Any) -> None:
        """From paho's thread to the loop."""
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(handle, *values)

    def _answered(self, future: asyncio.Future[str], codes: "Sequence[ReasonCode]") -> None:
        bad = [str(code) for code in codes if code.is_failure]
        self._settle(self._lost if bad else future, ", ".join(bad))

    def _confirmed(self, code: "ReasonCode") -> None:
        self._room.release()
        if code.is_failure or code.value == NO_SUBSCRIBER:  # then the cloud will not get it
            self._settle(self._lost, str(code))

    def _arrived(self, down: bytes) -> None:
        try:
            self._downs.put_nowait(down)
        except asyncio.QueueFull:
            self._settle(self._lost, "the cloud sends more than the agent reads")

    @staticmethod
    def _settle(future: asyncio.Future[str], text: str) -> None:
        if not future.done():
            future.set_result(text)


def _client(device: str, identity: TlsFiles) -> "Client":
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    client = Client(
        CallbackAPIVersion.VERSION2, device, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False
    )
    client.tls_set_context(tls(identity))
    client.max_inflight_messages_set(IN_FLIGHT)
    return client


def _say_goodbye(client: "Client") -> None:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.reasoncodes import ReasonCode

    client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))


def _end(client: "Client") -> None:
    if (connection := client.socket()) is not None:
        # paho's thread would else wait to write what the link cannot carry
        with suppress(OSError):  # already closed by the other side
            connection.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
    client.loop_stop()
