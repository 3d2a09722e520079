"""What both ends of a link over MQTT mean: topics and TLS. See docs/wire.md.

A topic is ``skerry/v1/<fleet>/<device>/<leaf>``. Leaves ``up/<shard>`` and ``status`` are the device's to write,
``ack`` and ``desired/<workload>`` the cloud's. ``status`` (``ONLINE`` or, as the last will, ``OFFLINE``) and
``desired/…`` are retained, but for a benchmark job: that one passes.

The cloud's processes share the shards (docs/decisions/0011). Each says in ``skerry/v1/<fleet>/cloud/ingest/<process>``,
as a device does in ``status``, whether it is there.
"""

import hashlib
import ssl

from skerry_shared.errors import LinkError
from skerry_shared.ports.carrier import TlsFiles

CLOUD = "cloud"  # the server's name as a client of the broker: no device may be called so
SHARDS = tuple(f"{number:02x}" for number in range(256))
ONLINE, OFFLINE = b"online", b"offline"
DESIRED = "desired/+"  # the leaves with a device's newest assignment of each workload


def topic(fleet: str, device: str, leaf: str) -> str:
    """A topic of one device; ``device`` may be "+" to subscribe to all."""
    return f"skerry/v1/{fleet}/{device}/{leaf}"


def up(device: str) -> str:
    """The leaf that takes what a device sends; its shard is the first byte of the SHA-256 of its name, in hex."""
    return f"up/{shard(device)}"


def shard(device: str) -> str:
    """The one of ``SHARDS`` that a device belongs to."""
    return hashlib.sha256(device.encode()).hexdigest()[:2]


def presence(fleet: str, process: str) -> str:
    """The topic in which a process that ingests says whether it is there; ``process`` may be "+"."""
    return topic(fleet, CLOUD, f"ingest/{process}")


def worker(number: int) -> str:
    """Name of a process that only ingests. It has a dot, which no device's name has."""
    return f"{CLOUD}.{number}"


def tls(identity: TlsFiles) -> ssl.SSLContext:
    """TLS 1.3 with our certificate, trusting the fleet's authority only. Raises LinkError if a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=identity.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(identity.certificate, identity.key)
    except OSError as error:  # ssl.SSLError is one
        raise LinkError(f"cannot identify ourselves: {error}") from None
    return context
