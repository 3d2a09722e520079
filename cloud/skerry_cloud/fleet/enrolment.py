"""How a device joins: an operator announces it, gets a one-time token, and the device trades that for a certificate.

Later it asks for the next certificate by itself: its request, signed by the key that was enrolled, is the proof.
"""

import base64
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from sqlalchemy import delete, select

from skerry_cloud.keys import Keys
from skerry_cloud.store import Device, Event, Installed, Store
from skerry_cloud.store import Token as TokenRow
from skerry_shared import identity, profiles, signing
from skerry_shared.errors import NotFoundError, StateError, TrustError, UsageError
from skerry_shared.identity import Token
from skerry_shared.mqtt import CLOUD
from skerry_shared.profiles import AUTO


@dataclass(frozen=True)
class Request:
    """What a device posts. ``csr`` is PEM; its common name must be ``name``."""

    secret: str
    csr: str
    name: str
    profile: str


@dataclass(frozen=True)
class Renewal:
    """What an enrolled device posts before its certificate ends, or after. ``csr`` is PEM, for the key that it has."""

    csr: str


@dataclass(frozen=True)
class Addresses:
    """Where devices find this cloud: URL base of the TUF repository, and host:port of the carriers ("" for none)."""

    repository: str
    gateway: str
    mqtt: str


class Enrolment:
    """Announces and enrols devices. A token works once, for one name, until it expires."""

    def __init__(self, store: Store, keys: Keys, fleet: str, root: bytes, addresses: Addresses, days: int) -> None:
        """``root`` is the repository's first TUF root; certificates live ``days`` days."""
        self._store, self._keys, self._fleet, self._root = store, keys, fleet, root
        self._addresses, self._days = addresses, days

    async def announce(self, name: str, profile: str, lifetime: float, now: float, group: str = "") -> str:
        """A token for the device ``name``, good for ``lifetime`` seconds; profile "auto" lets it say what it is.

        Raises StateError if it is enrolled, NotFoundError for an unknown profile.
        """
        identity.check_name("device", name)
        if name == CLOUD:
            raise UsageError(f"device: {name!r} is the cloud's own name towards the broker; choose another")
        if profile != AUTO:
            profiles.load(profile)
        if group:
            identity.check_name("group", group)
        token = Token.new(self._keys.authority.certificate)
        async with self._store.begin() as session:
            device = await session.get(Device, name)
            if device and device.state == "enrolled":
                raise StateError(f"device: {name} is enrolled; revoke it first")
            await session.execute(delete(TokenRow).where(TokenRow.device == name, TokenRow.used == 0))
            session.add(TokenRow(secret=identity.hash_secret(token.secret), device=name, expires=now + lifetime))
            before = device.state if device else ""
            session.add(_event(name, before, "announced", f"token issued, profile {profile}", "operator", now))
            await session.execute(delete(Installed).where(Installed.device == name))  # it begins with an empty folder
            counter = device.counter if device else 0
            await session.merge(Device(name=name, profile=profile, group=group, state="announced", counter=counter))
        return str(token)

    async def group(self, name: str, group: str, now: float) -> None:
        """Put a device into a group, or with "" into none. Raises NotFoundError, UsageError."""
        if group:
            identity.check_name("group", group)
        async with self._store.begin() as session:
            device = await session.get(Device, name)
            if not device:
                raise NotFoundError(f"device: no {name}")
            why = f"group {device.group or 'none'} → {group or 'none'}"
            session.add(_event(name, device.state, device.state, why, "operator", now))
            device.group = group

    async def enroll(self, request: Request, now: float) -> dict[str, Any]:
        """Sign the device's request. Raises TrustError for a bad token, UsageError for a bad request."""
        authority = self._keys.authority
        async with self._store.begin() as session:
            token = await session.get(TokenRow, identity.hash_secret(request.secret), with_for_update=True)
            _check_token(token, request.name, now)
            assert token
            certificate = authority.sign_request(request.csr.encode(), request.name, identity.utc(now), self._days)
            device = await session.get_one(Device, request.name)
            device.profile = _profile(device, request.profile)
            token.used = now
            session.add(_event(device.name, device.state, "enrolled", "token and request hold", device.name, now))
            device.state = "enrolled"
            device.key = identity.key_fingerprint(x509.load_pem_x509_certificate(certificate))
        return self._reply(device, certificate)

    async def renew(self, asked: Renewal, now: float) -> dict[str, str]:
        """The next certificate of an enrolled device. Raises TrustError for another key, UsageError for a bad request.

        The same request may come again: it buys whoever has not the key nothing.
        """
        pem = asked.csr.encode()
        csr = identity.load_request(pem)
        name = identity.common_name(csr)
        async with self._store.begin() as session:
            device = await session.get(Device, name)
            if device is None or device.state != "enrolled" or device.key != identity.key_fingerprint(csr):
                raise TrustError(f"csr: {name} is not enrolled with this key; announce it and enrol it anew")
            certificate = self._keys.authority.sign_request(pem, name, identity.utc(now), self._days)
            session.add(_event(name, "enrolled", "enrolled", f"certified for {self._days} days more", name, now))
        return {"certificate": certificate.decode()}

    async def revoke(self, name: str, now: float) -> None:
        """Never let this device in again until it is announced and enrolled anew."""
        async with self._store.begin() as session:
            device = await session.get(Device, name)
            if not device:
                raise NotFoundError(f"device: no {name}")
            session.add(_event(name, device.state, "revoked", "by the operator", "operator", now))
            device.state, device.key, device.link = "revoked", "", ""
            await session.execute(delete(TokenRow).where(TokenRow.device == name, TokenRow.used == 0))

    def _reply(self, device: Device, certificate: bytes) -> dict[str, Any]:
        return {
            "device": device.name,
            "fleet": self._fleet,
            "profile": device.profile,
            "certificate": certificate.decode(),
            "director": signing.public_pem(self._keys.signer("director").public_key()).decode(),
            "ingest": base64.b64encode(self._keys.ingest.public_bytes()).decode(),
            "root": self._root.decode(),
            "repository": self._addresses.repository,
            "gateway": self._addresses.gateway,
            "mqtt": self._addresses.mqtt or None,
        }


def _profile(device: Device, asked: str) -> str:
    if device.profile == AUTO:
        if not asked:
            raise UsageError(f"profile: {device.name} was announced as {AUTO}; enrol it with --profile {AUTO}")
        profiles.load(asked)
        return asked
    if asked and asked != device.profile:
        raise StateError(f"profile: {device.name} was announced as {device.profile}, not {asked}")
    return device.profile


async def permitted(store: Store, name: str) -> bool:
    """Whether a device with this certificate name may be linked."""
    device = await store.first(select(Device).where(Device.name == name))
    return device is not None and device.state == "enrolled"


def _check_token(token: TokenRow | None, name: str, now: float) -> None:
    if token is None or token.device != name:
        raise TrustError(f"token: not one for {name}")
    if token.used:
        raise TrustError(f"token: used already, at {identity.utc(token.used):%Y-%m-%d %H:%M:%S} UTC")
    if token.expires < now:
        raise TrustError(f"token: expired at {identity.utc(token.expires):%Y-%m-%d %H:%M:%S} UTC")


def _event(name: str, before: str, after: str, reason: str, actor: str, now: float) -> Event:
    return Event(time=now, kind="device", name=name, before=before, after=after, reason=reason, actor=actor)
