"""One table of the lake: a hot tier that is appended to, and a cold one, maybe elsewhere, that rows move to.

The hot tier's log says which version of the cold one belongs to it, by the watermark ``COLD``. So a move is two commits
and one switch: the cold tier gets the rows, unseen; the hot tier's next commit takes them away and names that version.
Whoever dies in between leaves a cold tier that is ahead, which the next move sets back. Every row is seen exactly once.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from skerry_cloud.ingest.delta import DataFile, Delta
from skerry_shared.errors import ConfigError, ReplayError, StateError

COLD = "cold"  # watermark: 1 + the cold tier's version
TRIES = 10  # against other processes that write here


@dataclass(frozen=True)
class Files:
    """Of both tiers."""

    hot: tuple[DataFile, ...]
    cold: tuple[DataFile, ...]


class Table:
    """Blocks on disk; any thread may call any method, but one at a time those that say "upkeep"."""

    def __init__(self, folder: Path, declared: pa.Schema, cold: str) -> None:
        """In ``folder``, made when first written to. ``cold``: URL or absolute path of the cold tier, "" for none."""
        self._folder, self._declared, self._cold_url = folder, declared, cold
        self._lock = threading.Lock()
        self._hot = Delta.find(str(folder))
        self._cold = self._known_cold()

    @property
    def name(self) -> str:
        """In the lake."""
        return self._folder.name

    @property
    def columns(self) -> pa.Schema:
        """What the cloud declares, then what a newer cloud added."""
        with self._lock:
            return self._columns()

    @property
    def versions(self) -> tuple[int, int]:
        """Of the hot and the cold tier; -1 for one that is not there."""
        with self._lock:
            return (self._hot.version if self._hot else -1), (self._cold.version if self._cold else -1)

    def watermark(self, name: str) -> int:
        """See ``Lake``."""
        with self._lock:
            return self._hot.mark(name) if self._hot else 0

    def append(self, rows: pa.Table, marks: Mapping[str, int], before: Mapping[str, int] | None = None) -> None:
        """See ``Lake``."""
        with self._lock:
            hot = self._made()
            self._widen(hot)
            before = {name: hot.mark(name) for name in marks} if before is None else before
            _check(hot, marks, before, self.name)
            last = pc.max(rows["received"]).as_py()
            adds = [hot.write(_fill(rows, hot.columns).to_batches(), last)] if rows.num_rows else []
            for _ in range(TRIES):
                try:
                    return hot.commit(adds, marks)
                except StateError as error:  # a commit of another process came first: look again
                    _check(hot, marks, before, self.name)
                    problem = error
        raise problem

    def dataset(self) -> ds.Dataset:
        """All rows that are there now, in both tiers."""
        with self._lock:
            columns = self._columns()
            tiers = [tier.dataset(columns) for tier in (self._hot, self._cold) if tier]
        return ds.dataset(tiers) if tiers else ds.dataset(columns.empty_table())

    def news(self) -> pa.Table:
        """Rows that other processes appended since this was last asked."""
        with self._lock:
            if self._hot is None and (hot := Delta.find(str(self._folder))):
                hot.adopt()
                self._hot = hot
            if self._hot is None:
                return self._columns().empty_table()
            self._hot.follow()
            return self._hot.dataset(self._columns(), self._hot.news()).to_table()

    def files(self) -> Files:
        """All that are live."""
        with self._lock:
            return Files(*(tuple(tier.files()) if tier else () for tier in (self._hot, self._cold)))

    def compact(self, files: Sequence[DataFile], now: float) -> None:
        """Upkeep: one file of these hot ones."""
        hot = self._made()
        batches = hot.dataset(self.columns, files).to_batches()
        made = hot.write(batches, max(file.last for file in files), new=False)
        with self._lock:
            hot.commit([made], removes=files, now=now, new=False)

    def move(self, groups: Sequence[Sequence[DataFile]], now: float) -> None:
        """Upkeep: hot files to the cold tier, one file of each group, whose rows were received on the same day."""
        hot, cold, columns = self._made(), self._newest_cold(), self.columns
        if new := [field for field in columns if field.name not in cold.columns.names]:
            cold.widen(new)
        cold.commit([
            cold.write(hot.dataset(columns, group).to_batches(), max(file.last for file in group), day_of(group[0]))
            for group in groups
        ])  # fmt: skip
        self._switch(cold, [file for group in groups for file in group], now)

    def drop(self, hot: Sequence[DataFile], cold: Sequence[DataFile], now: float) -> None:
        """Upkeep: forget the rows of these files."""
        tier = self._newest_cold() if cold else None
        if tier:
            tier.commit([], removes=cold, now=now)
        self._switch(tier, hot, now)

    def vacuum(self, hours: float, dry_run: bool) -> int:
        """Upkeep: delete files that no version since so many hours ago has; how many."""
        with self._lock:
            found = len(self._hot.vacuum(hours, dry_run)) if self._hot else 0
        if self._cold and (cold := self._newest_cold()):
            old = len(cold.vacuum(hours, dry_run))
            if cold.version + 1 != self.watermark(COLD):
                self._switch(cold, [], 0.0)
            found += old
        return found

    def _switch(self, cold: Delta | None, gone: Sequence[DataFile], now: float) -> None:
        """From now on these hot files are gone, and the cold tier's version counts."""
        hot = self._made()
        with self._lock:
            hot.commit([], {COLD: cold.version + 1} if cold else {}, removes=gone, now=now)
            self._cold = cold or self._cold

    def _made(self) -> Delta:
        if self._hot is None:
            self._hot = Delta.create(str(self._folder), self._declared)
            self._hot.adopt()  # another process may have been faster
        return self._hot

    def _widen(self, hot: Delta) -> None:
        """Have the columns that are younger than the table; they are null in the rows that are there."""
        while new := [field for field in self._declared if field.name not in hot.columns.names]:
            hot.widen(new)  # another process may have been faster with some of them

    def _columns(self) -> pa.Schema:
        added = [field for field in self._hot.columns if field.name not in self._declared.names] if self._hot else []
        return pa.schema([*self._declared, *added])

    def _known_cold(self) -> Delta | None:
        """The cold tier as the hot one knows it."""
        mark = self._hot.mark(COLD) if self._hot else 0
        if not mark:
            return None
        if not self._cold_url:
            raise ConfigError(f"lake.cold: is not set, but rows of {self.name} were moved to a cold tier")
        cold = Delta.find(self._cold_url, mark - 1)
        if cold is None:
            raise ConfigError(f"lake.cold: {self._cold_url} is not there, but rows were moved to it")
        return cold

    def _newest_cold(self) -> Delta:
        """The cold tier to write to: without what was written, but never named by the hot tier."""
        hot = self._made()
        about, mark = f"cold tier of {hot.id}", hot.mark(COLD)
        cold = Delta.find(self._cold_url) or Delta.create(self._cold_url, self.columns, "day", about)
        if cold.about != about:
            raise ConfigError(f"lake.cold: {self._cold_url} belongs to another lake; choose another place")
        if cold.version >= mark and (mark or cold.files()):
            cold.restore(mark - 1)
        return cold


def day_of(file: DataFile) -> str:
    """The day (UTC) on which its newest row was received."""
    return f"{datetime.fromtimestamp(file.last, timezone.utc):%Y-%m-%d}"


def _check(hot: Delta, marks: Mapping[str, int], before: Mapping[str, int], table: str) -> None:
    for name, version in marks.items():
        if (now := hot.mark(name)) != before[name] or now >= version:
            raise ReplayError(f"lake: {table} has {name} up to {now}, not to be set from {before[name]} to {version}")


def _fill(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    """With all columns: nulls for those that a newer cloud added."""
    for field in columns:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(columns.names)
