"""What both ends of a link over MQTT mean: topics and TLS. See docs/wire.md.

A topic is ``skerry/v1/<fleet>/<device>/<leaf>``. Leaves ``up`` and ``status`` are the device's to write, ``ack`` and
``desired/<workload>`` the cloud's. ``status`` (``ONLINE`` or, as the last will, ``OFFLINE``) and ``desired/…`` are
retained, but for a benchmark job: that one passes.
"""

import ssl

from skerry_shared.errors import LinkError
from skerry_shared.ports.carrier import TlsFiles

CLOUD = "cloud"  # the cloud's name as a client of the broker: no device may be called so
ONLINE, OFFLINE = b"online", b"offline"
DESIRED = "desired/+"  # the leaves with a device's newest assignment of each workload


def topic(fleet: str, device: str, leaf: str) -> str:
    """A topic of one device; ``device`` may be "+" to subscribe to all."""
    return f"skerry/v1/{fleet}/{device}/{leaf}"


def tls(identity: TlsFiles) -> ssl.SSLContext:
    """TLS 1.3 with our certificate, trusting the fleet's authority only. Raises LinkError if a file cannot be used."""
    try:
        context = ssl.create_default_context(cafile=identity.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(identity.certificate, identity.key)
    except OSError as error:  # ssl.SSLError is one
        raise LinkError(f"cannot identify ourselves: {error}") from None
    return context
