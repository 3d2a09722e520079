"""What keeps the lake fast and within its limits: small files become big ones, old rows move, older ones go.

    files → plan (pure) → compact, move, drop, vacuum

A row's age counts from when it was received, by the cloud's own clock: a device's clock may jump, and what a device
kept for a month offline must not be gone as soon as it arrives.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import inf, log

from skerry_cloud.ingest.delta import DataFile
from skerry_cloud.ingest.lake import Lake
from skerry_cloud.ingest.table import Files, Table, day_of
from skerry_cloud.job import Progress, Report
from skerry_cloud.store import Event, Store

DAY = 86_400.0  # seconds
FULL = 64 << 20  # bytes of a file that is compacted no more
FAN = 16  # small files of about one size that make a bigger one; a row is written log_FAN(FULL / SMALL) times
SMALL = 256 << 10  # bytes; all below are of one size


@dataclass(frozen=True)
class Policy:
    """Days from reception: when rows move to the cold tier, and when they go for ever; ``inf`` is never."""

    hot_days: float = inf
    keep_days: float = inf
    keep: Mapping[str, float] = field(default_factory=dict)  # per table, instead of ``keep_days``
    vacuum_hours: float = 24.0  # for which files that were replaced stay, for readers that began before


@dataclass(frozen=True)
class Plan:
    """What to do with the files of a table."""

    compact: tuple[tuple[DataFile, ...], ...]  # each group into one
    move: tuple[tuple[DataFile, ...], ...]  # … in the cold tier
    drop: Files


@dataclass(frozen=True)
class Done:
    """What was done, or would be: files, and rows where they moved or went."""

    table: str
    compacted_files: int
    moved_rows: int
    deleted_rows: int
    vacuumed_files: int


def plan(files: Files, policy: Policy, table: str, now: float) -> Plan:
    """Each file is dropped, moved, compacted or left alone. ``now`` in Unix seconds."""
    keep = now - policy.keep.get(table, policy.keep_days) * DAY
    hot = now - policy.hot_days * DAY
    old = tuple(file for file in files.hot if keep <= file.last < hot)
    rest = [file for file in files.hot if file.last >= max(keep, hot)]
    gone = Files(*(tuple(file for file in tier if file.last < keep) for tier in (files.hot, files.cold)))
    return Plan(tuple(_compactions(rest, now)), tuple(chunk for day in _days(old) for chunk in _chunks(day)), gone)


class Upkeep:
    """Does what is planned, one run at a time. All methods belong to one event loop; disk work is done in threads."""

    def __init__(self, lake: Lake, policy: Policy, store: Store, clock: Callable[[], float] = time.time) -> None:
        """Rows that move or go are told in an event."""
        self._lake, self._policy, self._store, self._clock = lake, policy, store, clock
        self._lock = asyncio.Lock()

    async def compact(self) -> None:
        """The cheap part, which readers and ingest need now and then."""
        async with self._lock:
            for table in self._lake.names:
                await asyncio.to_thread(compact, self._lake.table(table), self._policy, self._clock())

    async def run(self, dry_run: bool, actor: str, report: Report = lambda _: None) -> list[Done]:
        """All of it, or only what it would be, table by table."""
        done = []
        async with self._lock:
            for number, table in enumerate(self._lake.names):
                report(Progress("maintain", number, len(self._lake.names), table))
                done.append(
                    await asyncio.to_thread(tend, self._lake.table(table), self._policy, self._clock(), dry_run)
                )
                if not dry_run:
                    await self._tell(done[-1], actor)
        return done

    async def _tell(self, done: Done, actor: str) -> None:
        what = {"moved": done.moved_rows, "deleted": done.deleted_rows}
        async with self._store.begin() as session:
            for after, rows in what.items():
                if rows:
                    session.add(Event(time=self._clock(), kind="lake", name=done.table, after=after,
                                      reason=f"{rows} rows", actor=actor))  # fmt: skip


def compact(table: Table, policy: Policy, now: float) -> None:
    """Make big files of small ones."""
    for group in plan(table.files(), policy, table.name, now).compact:
        table.compact(group, now)


def tend(table: Table, policy: Policy, now: float, dry_run: bool = False) -> Done:
    """All that the policy asks for."""
    todo = plan(table.files(), policy, table.name, now)
    if not dry_run:
        if todo.drop.hot or todo.drop.cold:
            table.drop(todo.drop.hot, todo.drop.cold, now)
        if todo.move:
            table.move(todo.move, now)
        for group in todo.compact:
            table.compact(group, now)
    vacuumed = table.vacuum(policy.vacuum_hours, dry_run)
    gone = _rows((todo.drop.hot, todo.drop.cold))
    return Done(table.name, sum(map(len, todo.compact)), _rows(todo.move), gone, vacuumed)


def _compactions(files: Sequence[DataFile], now: float) -> Iterator[tuple[DataFile, ...]]:
    """Files of a day that is over become one, as far as ``FULL`` allows; today's in steps, as in a merge tree."""
    today = day_of(DataFile("", 0, 0, now))
    for day in _days([file for file in files if file.size < FULL]):
        if day_of(day[0]) < today:
            yield from (chunk for chunk in _chunks(day) if len(chunk) > 1)
        else:
            for _, group in groupby(sorted(day, key=_step), key=_step):
                alike = tuple(group)
                yield from _chunks(alike) if len(alike) >= FAN else ()


def _step(file: DataFile) -> int:
    return max(0, 1 + int(log(file.size / SMALL, FAN))) if file.size >= SMALL else 0


def _days(files: Sequence[DataFile]) -> Iterator[tuple[DataFile, ...]]:
    for _, day in groupby(sorted(files, key=lambda file: file.last), key=day_of):
        yield tuple(day)


def _chunks(files: Sequence[DataFile]) -> Iterator[tuple[DataFile, ...]]:
    """In order, each just large enough for ``FULL`` but the last."""
    chunk: list[DataFile] = []
    for file in files:
        chunk.append(file)
        if sum(one.size for one in chunk) >= FULL:
            yield tuple(chunk)
            chunk = []
    if chunk:
        yield tuple(chunk)


def _rows(groups: Sequence[Sequence[DataFile]]) -> int:
    return sum(file.rows for group in groups for file in group)
