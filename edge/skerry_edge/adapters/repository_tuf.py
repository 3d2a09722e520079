"""Verified bundles from a TUF repository over HTTPS, trusting the fleet's own authority alone.

Two signatures must agree: the director's assignment says which path, digest and length; the repository's metadata,
signed by the fleet's root and the workload's key, must say the same.
"""

import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import urllib3

from skerry_shared.errors import DigestError, ExpiredError, LinkError, ReplayError, SignatureError, TrustError
from skerry_shared.identity import utc

TIMEOUT = urllib3.Timeout(connect=10.0, read=20.0)  # seconds; of one read, not of a whole bundle


class Repository:
    """Fetches from ``{base_url}/metadata/`` and ``/targets/``. One thread of one process may use ``folder``."""

    def __init__(self, base_url: str, authority: Path, root: Path, folder: Path, clock: Callable[[], float]) -> None:
        """``authority``: PEM to trust for HTTPS. ``root``: the TUF root of enrolment. ``clock`` gives Unix seconds."""
        self._url, self._authority, self._root = base_url.rstrip("/"), authority, root
        self._folder, self._clock = folder, clock

    def fetch(self, path: str, sha256: str, length: int) -> bytes:
        """The bundle at ``path``. Raises LinkError (try later), ExpiredError or another TrustError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with mapped_errors(), self._pool() as pool:
            return self._download(pool, path, sha256, length)

    def _download(self, pool: urllib3.PoolManager, path: str, sha256: str, length: int) -> bytes:
        from skerry_edge.adapters.tuf_updater import DurableUpdater, PinnedFetcher

        updater = DurableUpdater(
            str(self._folder),
            f"{self._url}/metadata/",
            target_base_url=f"{self._url}/targets/",
            fetcher=PinnedFetcher(pool),
            bootstrap=self._root.read_bytes(),
        )
        updater.not_before(utc(self._clock()))
        target = updater.get_targetinfo(path)
        if target is None:
            raise TrustError(f"{path}: not signed by any key that may sign for it")
        if (target.hashes.get("sha256"), target.length) != (sha256, length):
            raise DigestError(f"{path}: the director and the repository disagree on its content")
        with tempfile.NamedTemporaryFile() as file:
            updater.download_target(target, file.name)
            return file.read()

    def _pool(self) -> urllib3.PoolManager:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self._authority)
        return urllib3.PoolManager(ssl_context=context, retries=False, timeout=TIMEOUT)


@contextmanager
def mapped_errors() -> Iterator[None]:
    """tuf's errors as ours, around all of a fetch: they also come while a body is read."""
    from tuf.api import exceptions

    try:
        yield
    except exceptions.ExpiredMetadataError as error:
        raise ExpiredError(f"repository: {error}") from None
    except (exceptions.LengthOrHashMismatchError, exceptions.DownloadLengthMismatchError) as error:
        raise DigestError(f"repository: {error}") from None
    except exceptions.BadVersionNumberError as error:
        raise ReplayError(f"repository: {error}") from None
    except exceptions.UnsignedMetadataError as error:
        raise SignatureError(f"repository: {error}") from None
    except exceptions.RepositoryError as error:
        raise TrustError(f"repository: {error}") from None
    except (exceptions.DownloadError, urllib3.exceptions.HTTPError) as error:
        raise LinkError(f"repository: {error.__cause__ or error}") from None
