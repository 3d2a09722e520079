"""Notices as JSON by HTTPS POST, signed as Standard Webhooks says (https://www.standardwebhooks.com, version 1).

    webhook-id         the notice's, the same at every attempt
    webhook-timestamp  Unix seconds of this attempt
    webhook-signature  v1,BASE64 of the HMAC-SHA256 of "ID.TIMESTAMP.BODY"

The receiver computes the same with the shared secret, refuses what is older than some minutes, and knows by its id what
comes twice. Libraries for that are on the page.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from skerry_cloud.adapters.post import Poster
from skerry_cloud.notices import Message
from skerry_shared.errors import ConfigError

PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)


class Webhook:
    """Tells one URL."""

    def __init__(self, url: str, secret: str, authority: Path | None, clock: Callable[[], float] = time.time) -> None:
        """``secret``: see ``key``; ``authority``: whom to trust instead of the system's list, PEM."""
        self._url, self._key, self._clock = url, key(secret), clock
        self._post = Poster(authority)

    def tell(self, message: Message) -> None:
        """POST it; any 2xx is taken for "I have it"."""
        body = json.dumps(asdict(message)).encode()
        stamp = str(int(self._clock()))
        headers = {"webhook-id": message.id, "webhook-timestamp": stamp,
                   "webhook-signature": signature(self._key, message.id, stamp, body)}  # fmt: skip
        self._post(self._url, body, headers)

    def renew(self, unresolved: Sequence[Message]) -> None:
        """Receivers remember what they were told."""


def key(secret: str) -> bytes:
    """Of a secret's text, "whsec_" and base64 of 24 to 64 bytes. Raises ConfigError."""
    try:
        found = base64.b64decode(secret.strip().removeprefix(PREFIX), validate=True)
    except binascii.Error:
        found = b""
    if not secret.startswith(PREFIX) or len(found) not in SECRET_BYTES:
        raise ConfigError("secret: not whsec_ and base64 of 24 to 64 bytes; echo whsec_$(openssl rand -base64 32)")
    return found


def signature(key: bytes, name: str, stamp: str, body: bytes) -> str:
    """The header's value."""
    code = hmac.digest(key, f"{name}.{stamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(code).decode()}"
