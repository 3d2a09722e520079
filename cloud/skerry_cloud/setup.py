"""Making the folder of a new fleet."""

import shutil
import time
from pathlib import Path

from skerry_cloud import config, keys
from skerry_cloud.config import CloudConfig
from skerry_cloud.release.repository import Repository
from skerry_shared import identity
from skerry_shared.config import parse_toml
from skerry_shared.errors import StateError
from skerry_shared.files import write_durably

OPERATOR = "operator.toml"
REPOSITORY = "repository"
KEYS = "keys"


def create(folder: Path, text: str) -> None:
    """A fleet configured by ``text``, whole or not at all. Raises ConfigError, StateError if ``folder`` is in use."""
    found = parse_toml(CloudConfig, text, config.FILE)
    if folder.exists() and any(folder.iterdir()):
        raise StateError(f"{folder}: not empty; a fleet gets a folder of its own")
    made_here = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        _fill(folder, found, text)
    except BaseException:
        shutil.rmtree(folder) if made_here else _empty(folder)
        raise


def _fill(folder: Path, found: CloudConfig, text: str) -> None:
    now = time.time()
    made = keys.create(folder / KEYS, found.fleet, found.listen.hosts, found.ingest.workers, now)
    Repository(folder / REPOSITORY, made).create(identity.utc(now))
    host = found.listen.hosts[0]
    operator = f"""\
# Where this fleet's cloud is, for `skerry`. Whoever holds the token file is an operator.
url = "https://{host}:{found.listen.https_port}"
authority = "{KEYS}/authority.pem"
token = "{KEYS}/operator.token"
"""
    write_durably(folder / OPERATOR, operator.encode())
    write_durably(folder / config.FILE, text.encode())  # last: a folder with it is complete


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
