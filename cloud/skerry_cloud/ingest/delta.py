"""One Delta table, in a folder or in an object store, with commits that survive a power cut.

deltalake syncs nothing, so in a folder the order is kept here:

1. A Parquet file is fsynced, then the log's entry that names it. A power cut between the two leaves a file that nobody
   knows; within the entry, a broken last line, which is taken back when the table is opened.
2. A checkpoint, which spares a reader all entries before it, is made aside, fsynced, and moved in place whole.

A file's ``modificationTime`` in the log says when its newest row was received: what a file's age is counted from.

Several processes may write to a table. Delta gives each commit its number and refuses one that excludes another; what
others did is known after ``follow``.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction, RemoveAction
from pyarrow import fs

from skerry_shared.errors import StateError
from skerry_shared.files import sync_folder, write_durably
from skerry_shared.locking import locked

LOG, CHECKPOINT, CHECKPOINTS = "_delta_log", "_last_checkpoint", "*.checkpoint.parquet"
NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)  # they do not fsync
EVERY = 32  # commits between two checkpoints: what a commit costs grows with the entries since the last
LOG_KEPT = {"delta.logRetentionDuration": "interval 1 hours"}  # of entries before a checkpoint, for slow readers
ROW_GROUP = 64 << 20  # bytes in memory
FRESH, COMPACTED, COLD = 1, 3, 15  # level of zstd: what is new is soon written again, a cold file never


@dataclass(frozen=True)
class DataFile:
    """A live Parquet file of a table: ``path`` in it, ``size`` in bytes, ``last`` row received in Unix seconds."""

    path: str
    size: int
    rows: int
    last: float


class Delta:
    """A table at ``url``, an absolute path or a URL with a scheme. One thread at a time."""

    def __init__(self, url: str, delta: DeltaTable) -> None:
        """See ``find`` and ``create``."""
        self._url, self._delta = url, delta
        self._folder = _folder(url)
        self._files = _file_system(url)
        self._marks = _transactions(self._folder / LOG) if self._folder else {}
        self._synced = self._checkpointed = self.version
        self._written = set[str]()  # paths of files that are not in the log yet
        self._news: list[DataFile] = []

    @classmethod
    def find(cls, url: str, version: int | None = None) -> "Delta | None":
        """The table, or None if nobody made it; as of an older version that must exist."""
        if folder := _folder(url):
            _take_back_torn(folder / LOG)
        return cls(url, DeltaTable(url, version=version)) if DeltaTable.is_deltatable(url) else None

    @classmethod
    def create(cls, url: str, columns: pa.Schema, partition: str = "", about: str = "") -> "Delta":
        """A new table; ``partition`` is the name of a text column, which its files do not hold."""
        if folder := _folder(url):
            folder.mkdir(parents=True, exist_ok=True)
        told = columns.append(pa.field(partition, pa.string())) if partition else columns
        schema, by = Schema.from_arrow(told), [partition] if partition else None
        with contextlib.suppress(CommitFailedError):  # another process was faster
            DeltaTable.create(url, schema, "ignore", partition_by=by, configuration=LOG_KEPT, description=about)
        made = cls(url, DeltaTable(url))
        if folder:
            _sync(folder / LOG / f"{0:020d}.json")
            for place in (folder, folder.parent, folder.parent.parent):
                sync_folder(place)
        return made

    @property
    def version(self) -> int:
        """Number of the newest commit that is known here."""
        return self._delta.version()

    @property
    def id(self) -> str:
        """What no other table is called."""
        return str(self._delta.metadata().id)

    @property
    def about(self) -> str:
        """What it was created with."""
        return self._delta.metadata().description or ""

    @property
    def columns(self) -> pa.Schema:
        """Of its files."""
        by = self._delta.metadata().partition_columns
        return pa.schema([field for field in pa.schema(self._delta.schema().to_arrow()) if field.name not in by])

    def mark(self, name: str) -> int:
        """The watermark ``name``: of Delta's transaction ids, application → version; 0 if it was never set."""
        return self._marks.get(name, 0)

    def files(self) -> list[DataFile]:
        """All that are live."""
        found = pa.table(self._delta.get_add_actions())
        names = ("path", "size_bytes", "num_records", "modification_time")
        rows = zip(*(found[name].to_pylist() for name in names), strict=True)
        return [DataFile(path, size, count, moment / 1000) for path, size, count, moment in rows]

    def dataset(self, columns: pa.Schema, files: Sequence[DataFile] | None = None) -> ds.Dataset:
        """Rows of these files, by default of all, with these columns: null where a file lacks one."""
        format, fragments = ds.ParquetFileFormat(), []
        for file in self.files() if files is None else files:  # no other bounds: a missing one would hide rows
            within = pc.field("received") <= file.last
            fragments.append(format.make_fragment(file.path, self._files, partition_expression=within))
        return ds.FileSystemDataset(fragments, columns, format, self._files)

    def write(self, batches: Iterable[pa.RecordBatch], last: float, day: str = "", new: bool = True) -> AddAction:
        """A durable Parquet file of these rows, the last of which was received at ``last``, for ``commit`` to add.

        ``new`` is whether the lake did not have them yet.
        """
        place = f"day={day}/" if day else ""
        path, columns, count = f"{place}{uuid.uuid4().hex}.parquet", self.columns, 0
        self._written.add(path)
        if self._folder:
            (self._folder / place).mkdir(exist_ok=True)
        texts = [field.name for field in columns if pa.types.is_string(field.type)]
        level = COLD if day else FRESH if new else COMPACTED
        options = {"compression": "zstd", "compression_level": level, "use_dictionary": texts}
        with pq.ParquetWriter(path, columns, filesystem=self._files, **options) as file:
            for group in _row_groups(batches):
                file.write_table(group.cast(columns))
                count += group.num_rows
        if self._folder:
            _sync(self._folder / path)
            sync_folder(self._folder)  # which a day's folder may be new in
        size, moment = self._files.get_file_info(path).size, ceil(last * 1000)
        return AddAction(path, size, {"day": day} if day else {}, moment, new, json.dumps({"numRecords": count}))

    def commit(
        self, adds: Sequence[AddAction], marks: Mapping[str, int] | None = None, removes: Sequence[DataFile] = (),
        now: float = 0.0, new: bool = True,
    ) -> None:  # fmt: skip
        """One durable step. ``new``: rows come or go; else they are the same ones in other files.

        Raises StateError, and changes nothing, if another process did meanwhile what excludes this.
        """
        actions: list[AddAction | RemoveAction] = [*(self._remove(file, now, new) for file in removes), *adds]
        transactions = [Transaction(name, value) for name, value in (marks or {}).items()]
        properties = CommitProperties(app_transactions=transactions)
        try:
            self._delta.create_write_transaction(
                actions, "append", self._delta.schema(), self._delta.metadata().partition_columns or None,
                commit_properties=properties, post_commithook_properties=NO_HOOKS if self._folder else None,
            )  # fmt: skip
        except CommitFailedError as error:
            self.follow()
            raise StateError(f"lake: {self._url}: another process writes here: {error}") from None
        self.follow()

    def widen(self, columns: Sequence[pa.Field]) -> None:
        """Add columns, null in the rows that are there; none if another process changed them meanwhile."""
        fields = Schema.from_arrow(pa.schema(columns)).fields
        with contextlib.suppress(CommitFailedError):
            self._delta.alter.add_columns(fields, post_commithook_properties=NO_HOOKS)
        self.follow()

    def restore(self, version: int) -> None:
        """A commit that makes all as it was at ``version``, of which no file was vacuumed; -1 is empty."""
        if version < 0:
            self._delta.delete(post_commithook_properties=NO_HOOKS)
        else:
            self._delta.restore(version, post_commithook_properties=NO_HOOKS)
        self.follow()

    def follow(self) -> None:
        """Know, and keep for good, what was committed here or by others."""
        self._delta.update_incremental()
        if self._folder is None:
            return
        try:
            for version in range(self._synced + 1, self.version + 1):
                self._learn(self._folder / LOG / f"{version:020d}.json")
        except FileNotFoundError:  # removed behind a checkpoint: this process slept for long
            self._marks = _transactions(self._folder / LOG)
            self.adopt()
        self._synced = self.version
        if self.version - self._checkpointed >= EVERY:  # as far as is known here
            self._checkpointed = max(self._checkpointed, _newest_checkpoint(self._folder / LOG))
        if self.version - self._checkpointed >= EVERY:
            self.checkpoint()

    def news(self) -> list[DataFile]:
        """Files with rows that other processes brought, as far as was followed since this was last asked."""
        found, self._news = self._news, []
        return found

    def adopt(self) -> None:
        """Take all that is there for news."""
        self._news = self.files()

    def _learn(self, entry: Path) -> None:
        _sync(entry)
        actions = _actions(entry)
        self._marks.update(_marks_of(actions))
        added = {action["add"]["path"]: action["add"] for action in actions if "add" in action}
        self._news += [_file(add) for path, add in added.items() if add["dataChange"] and path not in self._written]
        self._written -= added.keys()

    def checkpoint(self) -> None:
        """Spare readers the log's entries so far, and remove those that are ``LOG_KEPT`` old.

        A process that finds another one at it leaves it to that.
        """
        if self._folder is None:
            return self._delta.create_checkpoint()
        with contextlib.suppress(StateError), locked(self._folder / ".checkpoint.lock", "a checkpoint"):
            self._checkpoint(self._folder / LOG, self._folder / ".checkpoint")
        return None

    def _checkpoint(self, log: Path, aside: Path) -> None:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / LOG).mkdir(parents=True)
        for path in _needed(log):
            os.link(path, aside / LOG / path.name)
        made = DeltaTable(str(aside), version=self.version)
        made.create_checkpoint()
        name = f"{made.version():020d}.checkpoint.parquet"
        _sync(aside / LOG / name)
        (aside / LOG / name).replace(log / name)
        sync_folder(log)
        write_durably(log / CHECKPOINT, (aside / LOG / CHECKPOINT).read_bytes())
        shutil.rmtree(aside)
        self._checkpointed = made.version()
        self._delta.cleanup_metadata()

    def vacuum(self, hours: float, dry_run: bool) -> list[str]:
        """Delete files that no version since ``hours`` ago has; their paths."""
        found: list[str] = self._vacuum(hours, True)
        if found and not dry_run:
            self._vacuum(hours, False)
            self.follow()
        return found

    def _vacuum(self, hours: float, dry_run: bool) -> list[str]:
        return self._delta.vacuum(
            ceil(hours), dry_run, enforce_retention_duration=False, full=True, post_commithook_properties=NO_HOOKS
        )

    @staticmethod
    def _remove(file: DataFile, now: float, new: bool) -> RemoveAction:
        return RemoveAction(file.path, new, int(now * 1000), file.size)


def _folder(url: str) -> Path | None:
    """Where the table is if it is in a folder."""
    return None if "://" in url else Path(url)


def _file_system(url: str) -> fs.FileSystem:
    """The table's folder as a file system."""
    if folder := _folder(url):
        return fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
    return fs.PyFileSystem(DeltaStorageHandler(url))


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting, size = list[pa.RecordBatch](), 0
    for batch in batches:
        waiting.append(batch)
        size += batch.nbytes
        if size >= ROW_GROUP:
            yield pa.Table.from_batches(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _needed(log: Path) -> list[Path]:
    """What the table's newest version is read from: the newest checkpoint, and the entries from it on."""
    newest = max(log.glob(CHECKPOINTS), default=None)
    first = newest.name.split(".")[0] if newest else ""
    entries = [path for path in log.glob("*.json") if path.stem >= first]
    return [*([newest, log / CHECKPOINT] if newest else []), *sorted(entries)]


def _transactions(log: Path) -> dict[str, int]:
    """All watermarks: Delta would read the log again for each."""
    marks: dict[str, int] = {}
    for path in _needed(log):
        if path.suffix == ".parquet":
            told = pq.read_table(path, columns=["txn"])["txn"].drop_null().to_pylist()
            marks |= {row["appId"]: row["version"] for row in told}
        elif path.suffix == ".json":
            marks |= _marks_of(_actions(path))
    return marks


def _newest_checkpoint(log: Path) -> int:
    return max((int(path.name.split(".")[0]) for path in log.glob(CHECKPOINTS)), default=0)


def _actions(entry: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in entry.read_text().splitlines()]


def _marks_of(actions: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {action["txn"]["appId"]: action["txn"]["version"] for action in actions if "txn" in action}


def _file(add: Mapping[str, Any]) -> DataFile:
    """What an entry of the log says was added."""
    return DataFile(add["path"], add["size"], json.loads(add["stats"])["numRecords"], add["modificationTime"] / 1000)


def _take_back_torn(log: Path) -> None:
    """Remove the last entry if a power cut broke it: its commit had not returned, so nobody relies on it."""
    last = max(log.glob("*.json"), default=None)
    if last is None:
        return
    try:
        whole = all(json.loads(line) for line in last.read_text().splitlines()) and last.stat().st_size > 0
    except ValueError:
        whole = False
    if not whole:
        last.unlink()
        sync_folder(log)
