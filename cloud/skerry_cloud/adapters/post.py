"""JSON by POST to somebody else's server."""

from collections.abc import Mapping
from pathlib import Path

import urllib3

from skerry_shared import __version__
from skerry_shared.errors import LinkError

SECONDS = 10.0  # to connect, and to wait for each piece of the answer
KEPT = 200  # bytes of an answer that go into an error


class Poster:
    """Follows no redirect: what is signed, or sent with a secret, is for the server that was named."""

    def __init__(self, authority: Path | None) -> None:
        """``authority``: whom to trust instead of the system's list, PEM."""
        trusted = str(authority) if authority else None
        self._pool = urllib3.PoolManager(timeout=SECONDS, retries=False, ca_certs=trusted)

    def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Raises LinkError unless the answer is 2xx."""
        told = {"content-type": "application/json", "user-agent": f"skerry/{__version__}", **headers}
        try:
            answer = self._pool.request("POST", url, body=body, headers=told, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise LinkError(f"{url}: {error}") from None
        if not 200 <= answer.status < 300:
            said = answer.data[:KEPT].decode(errors="replace").strip()
            raise LinkError(f"{url}: answered {answer.status}: {said}")
