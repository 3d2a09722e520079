"""Ports: what carries envelopes. A device holds one ``Link`` at a time; the cloud serves all over a ``Carrier``.

What travels is serialised ``Up`` and ``Down`` (see ``telemetry``); a carrier never looks inside.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_MESSAGE = 17 << 20  # bytes of one Up or Down: the largest batch, were it incompressible, and its envelope


@dataclass(frozen=True)
class TlsFiles:
    """Who we are and whom we trust, as PEM files: read anew for each connection, so a renewed certificate is used."""

    authority: Path
    certificate: Path
    key: Path


class Link(Protocol):
    """A device's open connection. Every method raises LinkError once it is lost."""

    async def send(self, up: bytes) -> None:
        """Hand over one message; waits while the carrier has no room. Durable only when the cloud acknowledges it."""
        ...

    def receive(self) -> AsyncIterator[bytes]:
        """Messages from the cloud, until the link is lost (LinkError)."""
        ...


class Transport(Protocol):
    """A way for a device to reach its cloud."""

    name: str

    def connect(self) -> AbstractAsyncContextManager[Link]:
        """Open a link, authenticated both ways. Raises LinkError if the cloud cannot be reached."""
        ...


class Inbox(Protocol):
    """What the cloud does with what a carrier brings. The device's name is the authenticated one."""

    async def arrived(self, device: str, up: bytes) -> None:
        """A message came. Waits while ingest has no room: the carrier must not read on meanwhile."""
        ...

    async def present(self, device: str, online: bool) -> None:
        """A device's link was opened or lost."""
        ...


class Carrier(Protocol):
    """The cloud's side of a transport."""

    name: str

    def serve(self, inbox: Inbox) -> AbstractAsyncContextManager[None]:
        """Serve devices while the context is open."""
        ...

    async def send(self, device: str, down: bytes) -> bool:
        """Pass ``down`` to the device if it is linked over this carrier; False if it is not."""
        ...


Permit = Callable[[str], Awaitable[bool]]  # may this device (by certificate name) be linked? False once it was revoked
