"""Openings of sessions, kept on disk: batches that waited at a broker can be read after the cloud was restarted."""

from pathlib import Path

from skerry_shared import wire
from skerry_shared.errors import TrustError
from skerry_shared.files import sync_folder, write_durably
from skerry_shared.identity import check_name
from skerry_shared.telemetry import SignedSession, Up

SESSION = 16  # bytes of a session's name
PER_DEVICE = 256  # the newest; each start of an agent begins four, and it sends its openings again whenever it links


class Sessions:
    """A folder of openings: ``<device>/<session in hex>``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, device: str, session: bytes, opening: SignedSession) -> None:
        """Store durably, and forget the device's oldest beyond ``PER_DEVICE``. Raises TrustError as ``find``."""
        path = self._path(device, session)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, wire.encode(Up(session=opening)))
        sync_folder(self._folder)
        kept = sorted(path.parent.glob("[0-9a-f]*"), key=lambda file: file.stat().st_mtime)
        for old in kept[:-PER_DEVICE]:
            old.unlink()

    def find(self, device: str, session: bytes) -> SignedSession | None:
        """What was kept, or None. Raises TrustError if no session is called so."""
        try:
            return wire.decode(Up, self._path(device, session).read_bytes()).session
        except FileNotFoundError:
            return None

    def _path(self, device: str, session: bytes) -> Path:
        folder = self._folder / check_name("device", device)
        if len(session) != SESSION:
            raise TrustError(f"session: its name has {len(session)} bytes, not {SESSION}")
        return folder / session.hex()
