"""The cloud's side of links over MQTT 5: one client of the broker for all devices, reconnecting by itself.

A device is who the broker's access rules let write to its topics (see ``skerry_shared.mqtt``); who is present, the
retained ``status`` topics say. A message is confirmed to the broker after ingest took it: while there is no room, the
broker keeps what exceeds ``INCOMING``. What was not confirmed comes again after a reconnection. A message that ingest
fails to take is logged and confirmed: else it would take up room for ever. Its device sends it again.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from skerry_shared import wire
from skerry_shared.errors import LinkError
from skerry_shared.mqtt import CLOUD, DESIRED, ONLINE, tls, topic
from skerry_shared.ports.carrier import MAX_MESSAGE, Inbox, TlsFiles
from skerry_shared.release import Assignment, Signed
from skerry_shared.telemetry import Down

log = logging.getLogger(__name__)

KEEPALIVE = 20  # seconds between pings
INCOMING = 200  # messages that ingest has not taken
OUTGOING = 10_000  # messages that the broker has not confirmed
REMEMBERED = 3600  # seconds for which the broker keeps messages for us while we are away
RECONNECT = (1, 30)  # seconds, first and longest wait


@dataclass(frozen=True)
class _Event:
    """Something that paho's thread saw on a connection; ``connection`` counts them."""

    connection: int
    message: MQTTMessage | None = None  # None: the connection was lost


class MqttCarrier:
    """Serves a fleet over the broker at ``host``:``port``, where the client called ``mqtt.CLOUD`` may do everything."""

    name = "mqtt"

    def __init__(self, host: str, port: int, fleet: str, identity: TlsFiles) -> None:
        """``identity``: a client certificate whose common name is ``mqtt.CLOUD``."""
        self._host, self._port, self._fleet, self._identity = host, port, fleet, identity
        self._client: Client | None = None
        self._online: set[str] = set()

    @asynccontextmanager
    async def serve(self, inbox: Inbox) -> AsyncIterator[None]:
        """See ``Carrier``. Raises LinkError if the broker cannot be reached at first."""
        connection = _Connection(self._fleet, tls(self._identity))
        pump = asyncio.ensure_future(self._pump(connection, inbox))
        pump.add_done_callback(_report)
        try:
            await connection.open(self._host, self._port)
            self._client = connection.client
            yield
        finally:
            self._client = None
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            await connection.close()
            await self._all_gone(inbox)

    async def send(self, device: str, down: bytes) -> bool:
        """See ``Carrier``."""
        if self._client is None or device not in self._online:
            return False
        leaf, retained = _leaf(wire.decode(Down, down))
        return not self._client.publish(topic(self._fleet, device, leaf), down, qos=1, retain=retained).rc

    async def _pump(self, connection: "_Connection", inbox: Inbox) -> None:
        while True:
            event = await connection.events.get()
            if event.message is None:
                log.warning("mqtt: lost the broker, dialling again")
                await self._all_gone(inbox)
            else:
                await self._take_safely(event.message, inbox)
                connection.confirm(event)

    async def _take_safely(self, message: MQTTMessage, inbox: Inbox) -> None:
        try:
            await self._take(message, inbox)
        except Exception:  # one message must not end the link of a whole fleet
            log.exception("mqtt: a message could not be taken")

    async def _take(self, message: MQTTMessage, inbox: Inbox) -> None:
        device, leaf = message.topic.split("/")[-2:]
        if leaf == "status":
            await self._presence(device, message.payload == ONLINE, inbox)
        elif len(message.payload) > MAX_MESSAGE:
            log.warning("mqtt: %s sent %d bytes at once: dropped", device, len(message.payload))
        else:
            await inbox.arrived(device, bytes(message.payload))

    async def _presence(self, device: str, online: bool, inbox: Inbox) -> None:
        if online != (device in self._online):
            (self._online.add if online else self._online.discard)(device)
            await inbox.present(device, online)

    async def _all_gone(self, inbox: Inbox) -> None:
        for device in sorted(self._online):
            try:
                await self._presence(device, False, inbox)
            except Exception:  # the others are gone as well
                log.exception("mqtt: %s: could not be reported as gone", device)


class _Connection:
    """paho's thread, and what it sees as ``events`` in the loop."""

    def __init__(self, fleet: str, context: ssl.SSLContext) -> None:
        self.events: asyncio.Queue[_Event] = asyncio.Queue()  # the broker bounds it: INCOMING are unconfirmed
        self.client = _client(context)
        self._loop = asyncio.get_running_loop()
        self._number = 0  # of connections so far
        self._ready: asyncio.Future[str] = self._loop.create_future()  # why not, or "" once subscribed
        self._topics = [(topic(fleet, "+", leaf), 1) for leaf in ("up", "status")]
        self.client.on_connect = self._connected
        self.client.on_subscribe = lambda _c, _u, _m, codes, _p: self._post(self._answered, codes)
        self.client.on_disconnect = lambda _c, _u, _f, _r, _p: self._saw(None)
        self.client.on_message = lambda _c, _u, message: self._saw(message)
        self._seen = deque[_Event]()  # of which the loop does not know yet

    async def open(self, host: str, port: int) -> None:
        """Raises LinkError if the broker cannot be reached or does not want us."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval, properties.ReceiveMaximum = REMEMBERED, INCOMING
        try:
            await asyncio.to_thread(
                self.client.connect, host, port, KEEPALIVE, clean_start=False, properties=properties
            )
        except OSError as error:  # ssl.SSLError is one
            raise LinkError(f"broker {host}:{port}: {error}") from None
        self.client.loop_start()
        if why := await self._ready:
            raise LinkError(f"broker {host}:{port}: {why}")

    def confirm(self, event: _Event) -> None:
        """Let the broker forget a message."""
        if event.message is not None and event.connection == self._number:
            self.client.ack(event.message.mid, event.message.qos)

    async def close(self) -> None:
        """End the connection and paho's thread."""
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)

    def _connected(self, client: Client, _u: Any, _f: ConnectFlags, code: ReasonCode, _p: Properties | None) -> None:
        self._number += 1
        if code.is_failure:
            self._post(self._answered, [code])
        else:
            client.subscribe(self._topics)

    def _answered(self, codes: list[ReasonCode]) -> None:
        bad = ", ".join(str(code) for code in codes if code.is_failure)
        if not self._ready.done():
            self._ready.set_result(bad)
        elif bad:
            log.error("mqtt: the broker refuses us: %s", bad)

    def _saw(self, message: MQTTMessage | None) -> None:
        """Wake the loop once for all that comes until it looks."""
        self._seen.append(_Event(self._number, message))
        if len(self._seen) == 1:
            self._post(self._look)

    def _look(self) -> None:
        while self._seen:
            self.events.put_nowait(self._seen.popleft())

    def _post(self, handle: Callable[..., None], *values: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(handle, *values)


def _leaf(down: Down) -> tuple[str, bool]:
    """Where it goes, and whether it is retained there: of each workload the newest assignment but a passing job."""
    if down.desired is None:
        return "ack", False
    assignment = wire.decode(Assignment, wire.decode(Signed, down.desired).document)
    return DESIRED.replace("+", assignment.workload), not assignment.measure


def _client(context: ssl.SSLContext) -> Client:
    version = MQTTProtocolVersion.MQTTv5
    client = Client(CallbackAPIVersion.VERSION2, CLOUD, protocol=version, manual_ack=True)
    client.tls_set_context(context)
    client.max_queued_messages_set(OUTGOING)
    client.reconnect_delay_set(*RECONNECT)
    return client


def _report(pump: "asyncio.Future[None]") -> None:
    if not pump.cancelled() and (error := pump.exception()) is not None:
        log.critical("mqtt: no longer serving", exc_info=error)
