"""Which device is linked over which carrier, and the way to each."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import update

from skerry_cloud.store import Device, Store
from skerry_shared import wire
from skerry_shared.ports.carrier import Carrier, Inbox, Permit
from skerry_shared.telemetry import Down

log = logging.getLogger(__name__)

Arrived = Callable[[str, bytes], Awaitable[None]]
Desired = Callable[[str], Awaitable[Sequence[bytes]]]


class Links:
    """Hands what arrives to ingest, and assignments to devices: at once if they are linked, else when they come."""

    def __init__(self, store: Store, arrived: Arrived, desired: Desired, permit: Permit) -> None:
        """``desired`` is a device's newest signed assignment of each workload; ``permit`` says who may be linked."""
        self._store, self._arrived, self._desired, self._permit = store, arrived, desired, permit
        self._carriers: Sequence[Carrier] = ()

    async def forget(self) -> None:
        """At start nobody is linked, whatever the cloud believed when it died."""
        async with self._store.begin() as session:
            await session.execute(update(Device).values(link=""))

    def over(self, carriers: Sequence[Carrier]) -> None:
        """Use these carriers from now on."""
        self._carriers = carriers

    def inbox(self, carrier: Carrier) -> Inbox:
        """What to serve this carrier with."""
        return _Inbox(self, carrier)

    async def send(self, device: str, down: bytes) -> bool:
        """Pass a serialised Down to the device over whatever carrier it is linked by; False if by none."""
        for carrier in self._carriers:
            if await carrier.send(device, down):
                return True
        return False

    async def assign(self, device: str, signed: bytes) -> None:
        """Pass on a signed assignment. A device that is away gets its newest ones when it comes back."""
        await self.send(device, wire.encode(Down(desired=signed)))

    async def arrived(self, device: str, up: bytes) -> None:
        """Hand a message to ingest, unless the device was revoked: a broker may know it only by its certificate."""
        if await self._permit(device):
            await self._arrived(device, up)
        else:
            log.warning("%s is not a device of this fleet (any more): its message is dropped", device)

    async def present(self, device: str, carrier: Carrier, online: bool) -> None:
        """Note a link that was opened or lost."""
        if not await self._permit(device):
            return
        async with self._store.begin() as session:
            row = await session.get(Device, device)
            if row and (online or row.link == carrier.name):
                row.link, row.seen = (carrier.name if online else ""), time.time()
        for signed in await self._desired(device) if online else ():
            await carrier.send(device, wire.encode(Down(desired=signed)))


class _Inbox:
    """The links, as one carrier sees them."""

    def __init__(self, links: Links, carrier: Carrier) -> None:
        self._links, self._carrier = links, carrier

    async def arrived(self, device: str, up: bytes) -> None:
        await self._links.arrived(device, up)

    async def present(self, device: str, online: bool) -> None:
        await self._links.present(device, self._carrier, online)
