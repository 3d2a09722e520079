"""What the broker's own administrator can read of the telemetry that passes through: he lets himself in and listens."""

import os
import queue
import signal
import time
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from skerry_cloud.keys import Keys
from skerry_shared import identity
from skerry_shared.files import write_durably
from skerry_shared.mqtt import tls
from skerry_shared.ports.carrier import TlsFiles
from story.stage import BrokenError

NAME = "administrator"
PATIENCE = 30.0  # seconds between two messages


def listen(cloud: Path, broker: int, port: int, count: int) -> list[bytes]:
    """``count`` messages that devices sent up. ``broker`` is Mosquitto's process id, ``cloud`` the cloud's folder."""
    rules = cloud / "mosquitto" / "access.acl"
    kept = rules.read_bytes()
    write_durably(rules, kept + f"\nuser {NAME}\ntopic read skerry/#\n".encode(), 0o600)
    os.kill(broker, signal.SIGHUP)  # Mosquitto reads its access rules again
    try:
        return _collect(_identity(cloud), port, count)
    finally:
        write_durably(rules, kept, 0o600)
        os.kill(broker, signal.SIGHUP)


def broker_of(cloud: int) -> int:
    """The process id of the Mosquitto that the cloud process ``cloud`` started."""
    for child in map(int, Path(f"/proc/{cloud}/task/{cloud}/children").read_text().split()):
        if Path(f"/proc/{child}/comm").read_text().strip() == "mosquitto":
            return child
    raise BrokenError("the cloud has no Mosquitto")


def _identity(cloud: Path) -> TlsFiles:
    keys, key = Keys(cloud / "keys"), identity.new_key()
    folder = cloud / "mosquitto"
    files = TlsFiles(keys.tls.authority, folder / f"{NAME}.pem", folder / f"{NAME}.key")
    write_durably(files.key, identity.private_pem(key), 0o600)
    certificate = keys.authority.sign_request(identity.request(NAME, key), NAME, identity.utc(time.time()), 1)
    write_durably(files.certificate, certificate)
    return files


def _collect(files: TlsFiles, port: int, count: int) -> list[bytes]:
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=NAME, protocol=paho.MQTTv5)
    client.tls_set_context(tls(files))
    client.on_connect = lambda client, *_: client.subscribe("skerry/v1/+/+/up/+", qos=1)
    client.on_message = lambda _client, _data, message: heard.put(bytes(message.payload))
    client.connect("localhost", port)
    client.loop_start()
    try:
        return [heard.get(timeout=PATIENCE) for _ in range(count)]
    except queue.Empty:
        raise BrokenError(f"no message passed the broker within {PATIENCE:.0f} s") from None
    finally:
        client.disconnect()
        client.loop_stop()
