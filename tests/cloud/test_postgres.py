"""The control plane on a real PostgreSQL server, where one is installed."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select
from sqlalchemy.ext.asyncio import create_async_engine

from skerry_cloud.store import Base, Device, Event, Store, migrate

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("none"))
AS_OTHER = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to be root's

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PROGRAMS / "initdb").exists(), reason="needs apt-get install postgresql"),
]


@pytest.fixture
def url() -> Iterator[str]:
    made = subprocess.run([*AS_OTHER, "mktemp", "-d"], check=True, capture_output=True, text=True)
    folder = Path(made.stdout.strip())
    data, socket = folder / "data", f"-c listen_addresses= -k {folder}"
    control = [*AS_OTHER, str(PROGRAMS / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log")]
    try:
        subprocess.run(
            [*AS_OTHER, str(PROGRAMS / "initdb"), "-D", str(data), "-A", "trust", "-U", "skerry"], check=True
        )
        subprocess.run([*control, "-o", socket, "start"], check=True)
        yield f"postgresql+asyncpg://skerry@/postgres?host={folder}"
        subprocess.run([*control, "-m", "immediate", "stop"], check=True)
    finally:
        shutil.rmtree(folder)


def test_migrations_make_the_schema_that_the_code_declares(url: str) -> None:
    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), Base.metadata)

    async def story() -> None:
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
        await engine.dispose()

    migrate(url)
    migrate(url)  # a second time changes nothing
    asyncio.run(story())


def test_two_processes_that_change_what_they_read_lose_nothing(url: str) -> None:
    async def more(store: Store, times: int) -> None:
        for _ in range(times):
            async with store.begin() as session:
                device = await session.get_one(Device, "edge-1")
                device.profile = str(int(device.profile) + 1)
                session.add(Event(time=1.0, kind="device", name="edge-1", after=device.profile, actor="test"))

    async def story() -> None:
        stores = [Store(url), Store(url)]
        async with stores[0].begin() as session:
            session.add(Device(name="edge-1", profile="0", state="enrolled"))
        await asyncio.gather(*(more(store, 10) for store in (*stores, *stores)))
        assert (await stores[0].get(Device, "edge-1")).profile == "40"
        events = await stores[1].all(select(Event).order_by(Event.id))
        assert [event.after for event in events] == [str(number) for number in range(1, 41)]
        for store in stores:
            await store.close()

    migrate(url)
    asyncio.run(story())
