"""The cloud's side of links over MQTT 5: one client of the broker a process, reconnecting by itself.

A device is who the broker's access rules let write to its topics (see ``skerry_shared.mqtt``); who is present, the
retained ``status`` topics say. A message is confirmed to the broker after ingest took it: while there is no room, the
broker keeps what exceeds ``INCOMING``. A message that ingest fails to take is logged and confirmed: else it would take
up room for ever. Its device sends it again.

Several processes share the devices by shards (docs/decisions/0011). Each says on the broker that it is there, and
subscribes to the shards that are its own; one that dies or hangs is reported by its last will, and the others take its
shards over. Who takes a shard over asks its devices for what is in flight: the broker keeps nothing for who is away.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from skerry_cloud.adapters.shards import split
from skerry_shared import mqtt, wire
from skerry_shared.errors import LinkError
from skerry_shared.mqtt import CLOUD, DESIRED, OFFLINE, ONLINE, SHARDS, tls, topic
from skerry_shared.ports.carrier import MAX_MESSAGE, Inbox, TlsFiles
from skerry_shared.release import Assignment, Signed
from skerry_shared.telemetry import Down

log = logging.getLogger(__name__)

KEEPALIVE = 5  # seconds between pings; the broker gives up who was silent for 1.5 times as long
INCOMING = 200  # messages that ingest has not taken
OUTGOING = 10_000  # messages that the broker has not confirmed
RECONNECT = (1, 30)  # seconds, first and longest wait
START = 30.0  # seconds until the broker must have told us who is there
AGAIN = wire.encode(Down(again=True))

Present = Callable[[str, bool], Awaitable[None]]  # a process that ingests beside this one came or went


@dataclass(frozen=True)
class _Event:
    """Something that paho's thread saw on a connection; ``connection`` counts them."""

    connection: int
    message: MQTTMessage | None = None  # None: the connection was lost


class MqttCarrier:
    """Serves a fleet, or a share of its devices, over the broker at ``host``:``port``."""

    name = "mqtt"

    def __init__(
        self, host: str, port: int, fleet: str, identity: TlsFiles, process: str = CLOUD, present: Present | None = None
    ) -> None:
        """``process``, the common name in ``identity``: ``mqtt.CLOUD``, or ``mqtt.worker(…)`` of one that only ingests.

        ``present`` is told of the others.
        """
        self._host, self._port, self._fleet, self._identity = host, port, fleet, identity
        self._process, self._present = process, present
        self._connection: _Connection | None = None
        self._online: set[str] = set()
        self._processes: set[str] = set()  # that are there; with this one in it, all are known
        self._shards: frozenset[str] = frozenset()  # that are this one's

    @asynccontextmanager
    async def serve(self, inbox: Inbox) -> AsyncIterator[None]:
        """See ``Carrier``. Raises LinkError if the broker cannot be reached at first."""
        connection = self._connection = _Connection(self._fleet, self._process, tls(self._identity))
        pump = asyncio.ensure_future(self._pump(connection, inbox))
        pump.add_done_callback(_report)
        try:
            await connection.open(self._host, self._port)
            yield
        finally:
            self._connection = None
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            await connection.close()
            await self._lost(inbox)

    async def send(self, device: str, down: bytes) -> bool:
        """See ``Carrier``."""
        if self._connection is None or device not in self._online:
            return False
        return self._connection.publish(device, *_leaf(wire.decode(Down, down)), down)

    async def _pump(self, connection: "_Connection", inbox: Inbox) -> None:
        while True:
            event = await connection.events.get()
            if event.message is None:
                log.warning("mqtt: lost the broker, dialling again")
                await self._lost(inbox)
            else:
                await self._take_safely(event.message, connection.is_of_now(event), inbox)
                connection.confirm(event)

    async def _take_safely(self, message: MQTTMessage, is_of_now: bool, inbox: Inbox) -> None:
        try:
            await self._take(message, is_of_now, inbox)
        except Exception:  # one message must not end the link of a whole fleet
            log.exception("mqtt: a message could not be taken")

    async def _take(self, message: MQTTMessage, is_of_now: bool, inbox: Inbox) -> None:
        device, leaf, *rest = message.topic.split("/")[3:]
        if device == CLOUD:
            if is_of_now:  # who was there before the broker was lost says nothing of what is ours now
                await self._process_present(rest[0], message.payload == ONLINE)
        elif leaf == "status":
            await self._presence(device, message.payload == ONLINE, inbox)
        elif len(message.payload) > MAX_MESSAGE:
            log.warning("mqtt: %s sent %d bytes at once: dropped", device, len(message.payload))
        else:
            await inbox.arrived(device, bytes(message.payload))

    async def _process_present(self, name: str, online: bool) -> None:
        if online != (name in self._processes):
            (self._processes.add if online else self._processes.discard)(name)
            if self._process in self._processes:
                self._share()
            if self._present and name != self._process:
                await self._present(name, online)

    def _share(self) -> None:
        """Take the shards that are ours among those who are there now, and leave the others."""
        mine = split(self._processes)[self._process]
        gained, lost = mine - self._shards, self._shards - mine
        self._shards = mine
        if self._connection:
            self._connection.move(gained, lost)
            for device in sorted(self._online):
                if mqtt.shard(device) in gained:
                    self._connection.publish(device, "ack", False, AGAIN)
        beside = ", ".join(sorted(self._processes - {self._process})) or "nobody"
        log.info("mqtt: %s has %d of %d shards, beside %s", self._process, len(mine), len(SHARDS), beside)

    async def _presence(self, device: str, online: bool, inbox: Inbox) -> None:
        if online != (device in self._online):
            (self._online.add if online else self._online.discard)(device)
            await inbox.present(device, online)

    async def _lost(self, inbox: Inbox) -> None:
        self._processes, self._shards = set(), frozenset()
        for device in sorted(self._online):
            try:
                await self._presence(device, False, inbox)
            except Exception:  # the others are gone as well
                log.exception("mqtt: %s: could not be reported as gone", device)


class _Connection:
    """paho's thread, and what it sees as ``events`` in the loop."""

    def __init__(self, fleet: str, process: str, context: ssl.SSLContext) -> None:
        self.events: asyncio.Queue[_Event] = asyncio.Queue()  # the broker bounds it: INCOMING are unconfirmed
        self._fleet, self._process = fleet, process
        self._client = _client(process, context)
        self._loop = asyncio.get_running_loop()
        self._number = 0  # of connections so far
        self._moved = False  # we know who is there, and asked for our shards
        self._ready: asyncio.Future[str] = self._loop.create_future()  # why not, or "" once we have them
        self._seen = deque[_Event]()  # of which the loop does not know yet
        self._client.will_set(mqtt.presence(fleet, process), OFFLINE, qos=1, retain=True)
        self._client.on_connect = self._connected
        self._client.on_subscribe = lambda _c, _u, _m, codes, _p: self._post(self._answered, codes)
        self._client.on_disconnect = lambda _c, _u, _f, _r, _p: self._saw(None)
        self._client.on_message = lambda _c, _u, message: self._saw(message)

    async def open(self, host: str, port: int) -> None:
        """Raises LinkError if the broker cannot be reached or does not want us."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = INCOMING
        try:
            await asyncio.to_thread(
                self._client.connect, host, port, KEEPALIVE, clean_start=True, properties=properties
            )
        except OSError as error:  # ssl.SSLError is one
            raise LinkError(f"broker {host}:{port}: {error}") from None
        self._client.loop_start()
        late = self._loop.call_later(START, self._settle, "does not pass on who is there; see its access rules")
        why = await self._ready
        late.cancel()
        if why:
            raise LinkError(f"broker {host}:{port}: {why}")

    def publish(self, device: str, leaf: str, retained: bool, down: bytes) -> bool:
        """Hand a message to paho; False if it takes no more."""
        return not self._client.publish(topic(self._fleet, device, leaf), down, qos=1, retain=retained).rc

    def move(self, gained: Collection[str], lost: Collection[str]) -> None:
        """Take these shards and leave those. What is published next reaches devices after the broker did so."""
        self._moved = True
        if lost:
            self._client.unsubscribe(self._ups(lost))
        if gained:
            self._client.subscribe([(name, 1) for name in self._ups(gained)])
        else:
            self._settle("")

    def is_of_now(self, event: _Event) -> bool:
        """Was it seen on the connection that there is?"""
        return event.connection == self._number

    def confirm(self, event: _Event) -> None:
        """Let the broker forget a message."""
        if event.message is not None and self.is_of_now(event):
            self._client.ack(event.message.mid, event.message.qos)

    async def close(self) -> None:
        """End the connection, the last will included, and paho's thread."""
        self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
        await asyncio.to_thread(self._client.loop_stop)

    def _ups(self, shards: Collection[str]) -> list[str]:
        return [topic(self._fleet, "+", f"up/{shard}") for shard in sorted(shards)]

    def _connected(self, client: Client, _u: Any, _f: ConnectFlags, code: ReasonCode, _p: Properties | None) -> None:
        self._number += 1
        if code.is_failure:
            self._post(self._answered, [code])
        else:
            client.subscribe([(topic(self._fleet, "+", "status"), 1), (mqtt.presence(self._fleet, "+"), 1)])
            client.publish(mqtt.presence(self._fleet, self._process), ONLINE, qos=1, retain=True)

    def _answered(self, codes: list[ReasonCode]) -> None:
        if bad := ", ".join(str(code) for code in codes if code.is_failure):
            log.error("mqtt: the broker refuses us: %s", bad)
        if bad or self._moved:
            self._settle(bad)

    def _settle(self, why: str) -> None:
        if not self._ready.done():
            self._ready.set_result(why)

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


def _client(process: str, context: ssl.SSLContext) -> Client:
    version = MQTTProtocolVersion.MQTTv5
    client = Client(CallbackAPIVersion.VERSION2, process, protocol=version, manual_ack=True)
    client.tls_set_context(context)
    client.max_queued_messages_set(OUTGOING)
    client.reconnect_delay_set(*RECONNECT)
    return client


def _report(pump: "asyncio.Future[None]") -> None:
    if not pump.cancelled() and (error := pump.exception()) is not None:
        log.critical("mqtt: no longer serving", exc_info=error)
