import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, select

from skerry_cloud.store import Base, Device, Event, Store, migrate
from skerry_shared.errors import NotFoundError


def event(name: str) -> Event:
    return Event(time=1.0, kind="device", name=name, after="enrolled", actor="test")


def test_migrations_make_the_schema_that_the_code_declares(tmp_path: Path) -> None:
    migrate(f"sqlite+aiosqlite:///{tmp_path}/state.db")
    migrate(f"sqlite+aiosqlite:///{tmp_path}/state.db")  # a second time changes nothing
    with create_engine(f"sqlite:///{tmp_path}/state.db").connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_failing_transaction_leaves_neither_state_nor_event(with_store: Callable[[Any], None]) -> None:
    async def story(store: Store) -> None:
        with pytest.raises(ZeroDivisionError):
            async with store.begin() as session:
                session.add(Device(name="edge-1", profile="p", state="enrolled"))
                session.add(event("edge-1"))
                await session.flush()
                raise ZeroDivisionError
        assert await store.all(select(Device)) == []
        assert await store.all(select(Event)) == []
        with pytest.raises(NotFoundError, match="device: no edge-1"):
            await store.get(Device, "edge-1")

    with_store(story)


def test_followers_are_woken_by_new_events_and_see_each_once(with_store: Callable[[Any], None]) -> None:
    async def story(store: Store) -> None:
        waiting = asyncio.ensure_future(store.events_after(0))
        await asyncio.sleep(0)
        assert not waiting.done()
        async with store.begin() as session:
            session.add(event("edge-1"))
        (first,) = await asyncio.wait_for(waiting, 5)
        async with store.begin() as session:
            session.add(event("edge-2"))
        assert [found.name for found in await store.events_after(first.id)] == ["edge-2"]

    with_store(story)
