"""The control plane's tables, and the rule that governs them: a change of state and its event are one transaction.

Every class is a table and a plain dataclass at once. Times are Unix seconds. Telemetry is not here but in the lake.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import JSON, ForeignKey, ForeignKeyConstraint, Select, event, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from skerry_shared.errors import NotFoundError

MIGRATIONS = Path(__file__).parent / "migrations"
ALONE = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(1)"}  # waits for other transactions


class Base(MappedAsDataclass, DeclarativeBase):
    """All tables."""

    type_annotation_map = {list[list[str]]: JSON, list[str]: JSON, list[int]: JSON, dict[str, Any]: JSON}  # noqa: RUF012 (SQLAlchemy's own form)


class Event(Base, kw_only=True):
    """A change of state: who or what, when, from, to, why. ``origin`` makes a device's event count once."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    time: Mapped[float]
    kind: Mapped[str]  # dataset, run, release, rollout, device, update, alarm
    name: Mapped[str] = mapped_column(index=True)
    before: Mapped[str] = mapped_column(default="")
    after: Mapped[str]
    reason: Mapped[str] = mapped_column(default="")
    actor: Mapped[str]  # operator, policy, director, or a device's name
    origin: Mapped[str | None] = mapped_column(default=None, unique=True)


class Device(Base, kw_only=True):
    """A device, from the moment that an operator announced it."""

    __tablename__ = "devices"
    name: Mapped[str] = mapped_column(primary_key=True)
    profile: Mapped[str]
    group: Mapped[str] = mapped_column(default="", server_default="")  # a site, a line, a batch: judged together too
    state: Mapped[str]  # announced, enrolled, revoked
    key: Mapped[str] = mapped_column(default="")  # SHA-256 of its public key, hex
    link: Mapped[str] = mapped_column(default="")  # name of the carrier while online
    seen: Mapped[float] = mapped_column(default=0.0)
    counter: Mapped[int] = mapped_column(default=0)  # of the newest assignment


class Installed(Base, kw_only=True):
    """A workload that a device has, and the release of it that it runs, as it last said."""

    __tablename__ = "installed"
    device: Mapped[str] = mapped_column(primary_key=True)
    workload: Mapped[str] = mapped_column(primary_key=True)
    release: Mapped[int]


class Token(Base, kw_only=True):
    """A one-time enrolment token; only the hash of its secret is kept."""

    __tablename__ = "tokens"
    secret: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str]
    expires: Mapped[float]
    used: Mapped[float] = mapped_column(default=0.0)


class Dataset(Base, kw_only=True):
    """A numbered dataset version of a workload."""

    __tablename__ = "datasets"
    workload: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[int]
    created: Mapped[float]
    sha256: Mapped[str]
    rows: Mapped[int]
    sources: Mapped[dict[str, Any]]  # how many rows from where


class Run(Base, kw_only=True):
    """One training, with what compression made of it."""

    __tablename__ = "runs"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    workload: Mapped[str]
    dataset: Mapped[int]
    parent: Mapped[int]  # the release whose weights it started from; 0 = from scratch
    code: Mapped[str]  # revision that trained it; of an imported model its digest, "sha256:…"
    state: Mapped[str]  # queued, training or importing, trained, compressing, compressed, failed
    created: Mapped[float]
    epochs: Mapped[int] = mapped_column(default=0)  # that were asked for; 0: the workload's own number
    accuracy: Mapped[float] = mapped_column(default=0.0)
    seconds: Mapped[float] = mapped_column(default=0.0)  # of all heavy steps so far
    cost: Mapped[float] = mapped_column(default=0.0)  # of these, in the currency of the configured price
    reason: Mapped[str] = mapped_column(default="")
    __table_args__ = (ForeignKeyConstraint(["workload", "dataset"], ["datasets.workload", "datasets.number"]),)


class Release(Base, kw_only=True):
    """A published release of a workload."""

    __tablename__ = "releases"
    workload: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[int]
    owner: Mapped[str]
    created: Mapped[float]
    reason: Mapped[str] = mapped_column(default="")


class Retraining(Base, kw_only=True):
    """What the policy started, and how far it came: 0 where a step was not taken yet."""

    __tablename__ = "retrainings"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    workload: Mapped[str]
    champion: Mapped[int]  # the release that it is to better
    alarms: Mapped[list[int]]  # that it is to answer
    state: Mapped[str] = mapped_column(default="running")  # running, done, given up
    reason: Mapped[str]
    began: Mapped[float]
    ended: Mapped[float] = mapped_column(default=0.0)
    dataset: Mapped[int] = mapped_column(default=0)
    run: Mapped[int] = mapped_column(default=0)
    published: Mapped[int] = mapped_column(default=0)  # number of the release


class Bundle(Base, kw_only=True):
    """A release's bundle for one device profile."""

    __tablename__ = "bundles"
    workload: Mapped[str] = mapped_column(primary_key=True)
    release: Mapped[int] = mapped_column(primary_key=True)
    profile: Mapped[str] = mapped_column(primary_key=True)
    path: Mapped[str]
    sha256: Mapped[str]
    length: Mapped[int]
    manifest: Mapped[str]  # protobuf JSON
    __table_args__ = (ForeignKeyConstraint(["workload", "release"], ["releases.workload", "releases.number"]),)


class Rollout(Base, kw_only=True):
    """A release on its way to devices, wave by wave."""

    __tablename__ = "rollouts"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    workload: Mapped[str]
    release: Mapped[int]
    state: Mapped[str]
    waves: Mapped[list[list[str]]]  # device names
    wave: Mapped[int] = mapped_column(default=0)  # index of the wave under way
    wave_seconds: Mapped[float]  # a wave that is not healthy by then halts the rollout
    wave_started: Mapped[float]
    created: Mapped[float]
    reason: Mapped[str] = mapped_column(default="")
    mode: Mapped[str] = mapped_column(default="serve", server_default="serve")  # or shadow, see release.MODES


class Assignment(Base, kw_only=True):
    """What the director told one device about one workload, and what became of it."""

    __tablename__ = "assignments"
    device: Mapped[str] = mapped_column(primary_key=True)
    counter: Mapped[int] = mapped_column(primary_key=True)
    rollout: Mapped[int] = mapped_column(index=True)  # 0: an operator took the workload off
    workload: Mapped[str]
    release: Mapped[int]  # 0 likewise
    signed: Mapped[bytes]  # a serialised Signed assignment
    state: Mapped[str]  # issued, then the device's Update states
    reason: Mapped[str] = mapped_column(default="")
    updated: Mapped[float]


class Alarm(Base, kw_only=True):
    """Traffic is no longer like the reference: of a device, of a group, or of the whole fleet."""

    __tablename__ = "alarms"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    level: Mapped[str]  # device, group, fleet
    name: Mapped[str]  # of the device or group; "" for the fleet
    devices: Mapped[list[str]]  # that it is about
    workload: Mapped[str]
    release: Mapped[int]
    kind: Mapped[str]  # drift, data-quality
    health: Mapped[str]  # of the cohort: see states.Health
    state: Mapped[str]  # see states.Alarm
    owner: Mapped[str] = mapped_column(default="")  # the release's, until it is assigned to somebody
    opened: Mapped[float]  # by the cloud's clock, for escalation
    step: Mapped[int] = mapped_column(default=0)  # of escalation that was reached
    since: Mapped[float]  # start of the window where the evidence began
    raised: Mapped[float]  # end of the window that tipped it
    summary: Mapped[str]
    detail: Mapped[dict[str, Any]]

    @property
    def title(self) -> str:
        """How events name it."""
        return f"{self.id} {self.name or self.level}"


class Baseline(Base, kw_only=True):
    """What is normal at a place from now on, in the place of what the release says: traffic that somebody reviewed."""

    __tablename__ = "baselines"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    level: Mapped[str]  # device, group, fleet
    name: Mapped[str]
    workload: Mapped[str]
    release: Mapped[int]
    state: Mapped[str] = mapped_column(default="in force")  # or taken back
    since: Mapped[float]  # windows from then on until it was made
    created: Mapped[float]
    reason: Mapped[str]
    channels: Mapped[dict[str, Any]]

    @property
    def title(self) -> str:
        """How events name it."""
        return f"{self.id} {self.name or self.level}"


class Notice(Base, kw_only=True):
    """The outbox: what happened to an alarm and is to be told, written with the change itself."""

    __tablename__ = "notices"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    alarm: Mapped[int] = mapped_column(ForeignKey("alarms.id"))
    time: Mapped[float]
    what: Mapped[str]  # opened, or one of states.AlarmEvent
    first: Mapped[int]  # steps of escalation whose routes are told: from this one …
    last: Mapped[int]  # … to this one
    body: Mapped[dict[str, Any]]  # the alarm as it was then, and why
    addressed: Mapped[bool] = mapped_column(default=False, index=True)  # its deliveries are written


class Delivery(Base, kw_only=True):
    """A notice on its way over one route."""

    __tablename__ = "deliveries"
    notice: Mapped[int] = mapped_column(ForeignKey("notices.id"), primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="waiting", index=True)  # waiting, told, given up
    attempts: Mapped[int] = mapped_column(default=0)
    due: Mapped[float]  # of the next attempt
    error: Mapped[str] = mapped_column(default="")  # of the last one


class Checkpoint(Base, kw_only=True):
    """What a part of the cloud knew at a time, so that a start need not work it out again."""

    __tablename__ = "checkpoints"
    name: Mapped[str] = mapped_column(primary_key=True)
    time: Mapped[float]
    data: Mapped[bytes]


R = TypeVar("R", bound=Base)


class Store:
    """Sessions on the database, and a way to wait for the next event."""

    def __init__(self, url: str) -> None:
        """``url`` is SQLAlchemy's, with an asynchronous driver."""
        self._engine = create_async_engine(url)
        kind = self._engine.dialect.name
        if kind == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _configure_sqlite)
        writer = self._engine.execution_options()
        event.listen(writer.sync_engine, "begin", partial(_begin_alone, ALONE[kind]))
        self._writing = async_sessionmaker(writer, expire_on_commit=False)
        reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reading = async_sessionmaker(reader, expire_on_commit=False)
        self._news = asyncio.Condition()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        """A transaction: committed when the block ends well, undone when it raises; nobody changes what it read."""
        async with self._writing.begin() as session:
            yield session
        async with self._news:
            self._news.notify_all()

    async def all(self, statement: Select[R]) -> Sequence[R]:
        """Every row of a query."""
        async with self._reading() as session:
            return (await session.scalars(statement)).all()

    async def first(self, statement: Select[R]) -> R | None:
        """The first row of a query, or None."""
        async with self._reading() as session:
            return (await session.scalars(statement.limit(1))).first()

    async def get(self, table: type[R], *key: Any) -> R:
        """The row with this primary key. Raises NotFoundError."""
        async with self._reading() as session:
            row = await session.get(table, key[0] if len(key) == 1 else key)
        if row is None:
            raise NotFoundError(f"{table.__name__.lower()}: no {'/'.join(map(str, key))}")
        return row

    async def events_after(self, last: int) -> Sequence[Event]:
        """Events with an id above ``last``, oldest first; waits until there is one."""
        statement = select(Event).where(Event.id > last).order_by(Event.id).limit(500)
        async with self._news:
            while not (found := await self.all(statement)):
                await self._news.wait()
        return found

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


def migrate(url: str) -> None:
    """Bring the database to the present schema (creates it where there is none). Not for a running event loop."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    command.upgrade(config, "head")


def plain(row: Base) -> dict[str, Any]:
    """The row as JSON can carry it; binary columns are left out."""
    return {key: value for key, value in dataclasses.asdict(row).items() if not isinstance(value, bytes)}


def _begin_alone(statement: str, connection: Any) -> None:
    """A transaction as it begins by itself would let two read the same state and both act on it."""
    connection.exec_driver_sql(statement)


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=60000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
