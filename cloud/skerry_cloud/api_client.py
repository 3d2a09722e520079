"""The caller's side of the API: one method a verb, errors as they were raised in the cloud."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3

from skerry_shared import errors
from skerry_shared.config import load_toml

CONNECT_SECONDS = 10.0  # a cloud that does not answer within this is reported as unreachable
KINDS: dict[str, type[errors.SkerryError]] = {
    cls.__name__: cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.SkerryError)
}


@dataclass(frozen=True)
class Operator:
    """``operator.toml``: where the cloud is and how to talk to it. Relative paths start at the file's folder."""

    url: str
    authority: Path
    token: Path


class CloudClient:
    """Speaks to one cloud. Every method raises the SkerryError that the cloud answered, or LinkError."""

    def __init__(self, file: Path) -> None:
        """``file`` is an ``operator.toml``. Raises ConfigError."""
        operator = load_toml(Operator, file)
        self._url = operator.url.rstrip("/") + "/v1"
        self._headers = {"Authorization": f"Bearer {(file.parent / operator.token).read_text().strip()}"}
        self._pool = urllib3.PoolManager(
            ca_certs=str(file.parent / operator.authority),
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS),
            retries=False,
        )

    def get(self, path: str) -> Any:
        """The JSON document at ``path``."""
        return self._document("GET", path, None)

    def post(self, path: str, **body: Any) -> Any:
        """The answer to a request with this body."""
        return self._document("POST", path, body)

    def page(self, path: str) -> bytes:
        """What is at ``path``, as it is."""
        response = self._open("GET", path)
        try:
            return response.read()
        finally:
            response.release_conn()

    def save(self, file: Path, path: str, **body: Any) -> None:
        """The answer to a request with this body as ``file``."""
        response = self._open("POST", path, json=body)
        with file.open("wb") as content:
            for chunk in self._chunks(response):
                content.write(chunk)

    def delete(self, path: str) -> Any:
        """The answer to a deletion."""
        return self._document("DELETE", path, None)

    def lines(self, path: str) -> Iterator[dict[str, Any]]:
        """JSON objects as they come, until the cloud ends the stream."""
        return self._lines(self._open("GET", path))

    def work(self, path: str, **body: Any) -> Iterator[dict[str, Any]]:
        """Progress of long work as it comes, its result last as ``{"result": …}``. Raises what the work raised."""
        yield from self._work(self._open("POST", path, json=body))

    def send(self, path: str, file: Path, **query: Any) -> Iterator[dict[str, Any]]:
        """Long work on a file, which is sent as it is; otherwise as ``work``."""
        asked = f"{path}?{urlencode(query | {'file': file.name})}"
        with file.open("rb") as content:
            response = self._open("POST", asked, body=content)
        yield from self._work(response)

    def _work(self, response: urllib3.BaseHTTPResponse) -> Iterator[dict[str, Any]]:
        for line in self._lines(response):
            if "error" in line:
                raise _error(line)
            yield line

    def _document(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        response = self._open(method, path, json=body)
        try:
            return json.loads(response.read())
        finally:
            response.release_conn()

    def _open(self, method: str, path: str, **content: Any) -> urllib3.BaseHTTPResponse:
        try:
            response = self._pool.request(
                method, self._url + path, headers=self._headers, preload_content=False, **content
            )
        except urllib3.exceptions.HTTPError as error:
            raise errors.LinkError(f"cannot reach {self._url}: {error}; is `skerry-cloud serve` running?") from None
        if response.status >= 400:
            raise _error(_parse(response.read()))
        return response

    def _lines(self, response: urllib3.BaseHTTPResponse) -> Iterator[dict[str, Any]]:
        rest = b""
        for chunk in self._chunks(response):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from map(json.loads, whole)

    def _chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            yield from response.stream(65536)
        except urllib3.exceptions.HTTPError as error:
            raise errors.LinkError(f"the cloud's answer broke off: {error}") from None
        finally:
            response.close()


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {"error": f"unexpected answer: {body[:200]!r}"}


def _error(document: dict[str, Any]) -> errors.SkerryError:
    cls = KINDS.get(document.get("kind", ""), errors.SkerryError)
    return cls(document.get("error", "unknown error"))
