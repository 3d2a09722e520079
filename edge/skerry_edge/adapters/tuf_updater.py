"""python-tuf's client, made fit for devices that lose power and whose clocks may be wrong.

Stock, it replaces metadata without fsync (an empty timestamp.json then silently ends rollback protection), removes
root.json before it links it again, and passes every expiry check in 1970. Only `Repository` imports this module, for
tuf alone takes 33 MB.
"""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import urllib3
from tuf.api import exceptions
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from skerry_shared.files import sync_folder, write_durably

CHUNK = 256 << 10  # bytes; also how much is downloaded after the agent was told to stop


class DurableUpdater(Updater):
    """An Updater whose trusted metadata survive a power cut at any instruction, and that time cannot go back for."""

    def not_before(self, time: datetime) -> None:
        """Judge expiry as of ``time`` if the clock says that it is earlier."""
        self._trusted_set.reference_time = max(self._trusted_set.reference_time, time)

    def _persist_file(self, filename: str, data: bytes) -> None:
        write_durably(Path(filename), data)

    def _update_root_symlink(self) -> None:
        link, new = Path(self._dir, "root.json"), Path(self._dir, ".root.json.new")
        new.unlink(missing_ok=True)
        new.symlink_to(os.path.join("root_history", f"{self._trusted_set.root.version}.root.json"))  # noqa: PTH118
        new.replace(link)
        sync_folder(link.parent)


class PinnedFetcher(FetcherInterface):
    """Fetches over the given pool of connections. All of its errors are tuf's, those of a body cut short included."""

    def __init__(self, pool: urllib3.PoolManager) -> None:
        self._pool = pool

    def _fetch(self, url: str) -> Iterator[bytes]:
        response = self._pool.request("GET", url, preload_content=False, redirect=False)
        if response.status != 200:
            response.close()
            raise exceptions.DownloadHTTPError(f"{url}: status {response.status}", response.status)
        return _chunks(url, response)


def _chunks(url: str, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    try:
        yield from response.stream(CHUNK)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise exceptions.DownloadError(f"{url}: {error}") from None
    finally:
        response.close()
