"""Alembic's entry: applies migrations to the database that ``store.migrate`` names."""

from alembic import context
from sqlalchemy import create_engine

from skerry_cloud.store import Base

url = context.config.get_main_option("sqlalchemy.url")
assert url
with create_engine(url).connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
