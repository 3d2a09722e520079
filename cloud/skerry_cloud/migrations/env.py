"""Alembic's entry: applies migrations to the database that ``store.migrate`` names."""

import asyncio

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from skerry_cloud.store import Base


async def apply(url: str) -> None:
    """Through the driver that the store has too."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(_apply)
    await engine.dispose()


def _apply(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


url = context.config.get_main_option("sqlalchemy.url")
assert url
asyncio.run(apply(url))
