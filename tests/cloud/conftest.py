import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from skerry_cloud import keys
from skerry_cloud.keys import Keys
from skerry_cloud.release.repository import Repository
from skerry_cloud.store import Store, migrate
from skerry_shared import identity

Run = Callable[[Callable[[Store], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def fleet_keys(tmp_path: Path) -> Keys:
    return keys.create(tmp_path / "keys", "test", ("localhost", "127.0.0.1"), 2, time.time())


@pytest.fixture
def repository(tmp_path: Path, fleet_keys: Keys) -> Repository:
    made = Repository(tmp_path / "repository", fleet_keys)
    made.create(identity.utc(time.time()))
    return made


@pytest.fixture
def with_store(tmp_path: Path) -> Run:
    """Runs a coroutine function on a fresh database."""
    url = f"sqlite+aiosqlite:///{tmp_path}/state.db"
    migrate(url)

    def run(story: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            store = Store(url)
            try:
                await story(store)
            finally:
                await store.close()

        asyncio.run(main())

    return run
