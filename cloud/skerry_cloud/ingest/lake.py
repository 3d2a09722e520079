"""Telemetry at rest: a Delta Lake table per table of ``telemetry.TABLES``, and ``quarantine`` for what did not fit.

``append`` is durable when it returns, and exactly-once: every commit carries watermarks, Delta's transaction ids
(application → version), and a watermark that does not rise is refused. One process writes; any number may read.

A commit is a Parquet file, fsynced, then a file of Delta's log, fsynced. A power cut between the two leaves a Parquet
file that nobody knows; within the log's, a broken last line, which is taken back when the lake is opened.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from skerry_shared.errors import NotFoundError, ReplayError
from skerry_shared.files import sync_folder
from skerry_shared.telemetry import TABLES, ColumnType

TYPES: dict[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "binary": pa.binary(),
    "list<int64>": pa.list_(pa.field("element", pa.int64())),  # Delta's name of the item
}
ORIGIN = {
    "device": pa.string(),
    "session": pa.string(),  # hex
    "counter": pa.int64(),  # of the batch in its session
    "row": pa.int64(),  # in its batch
    "received": pa.float64(),  # Unix seconds
}
QUARANTINE = "quarantine"
NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)  # they do not fsync


def columns(table: str) -> pa.Schema:
    """The columns that a device sends for ``table``."""
    return pa.schema([(name, TYPES[kind]) for name, kind in TABLES[table].items()])


def schema(table: str) -> pa.Schema:
    """The columns of ``table`` in the lake. Raises NotFoundError."""
    if table == QUARANTINE:
        told: dict[str, pa.DataType] = {"table": pa.string(), "reason": pa.string(), "payload": pa.binary()}
    elif table in TABLES:
        told = dict(zip(columns(table).names, columns(table).types, strict=True))
    else:
        raise NotFoundError(f"lake: no table {table!r}; known: {', '.join((*TABLES, QUARANTINE))}")
    return pa.schema([*told.items(), *ORIGIN.items()])


class Lake:
    """A folder of Delta tables. Blocks on disk; any thread may call any method."""

    def __init__(self, folder: Path) -> None:
        """Tables are created in ``folder`` when first written to."""
        self._folder = folder
        self._lock = threading.Lock()
        self._tables: dict[str, DeltaTable] = {}
        for table in (*TABLES, QUARANTINE):
            _take_back_torn(folder / table / "_delta_log")
            if DeltaTable.is_deltatable(str(folder / table)):
                self._tables[table] = DeltaTable(folder / table)

    def append(self, table: str, rows: pa.Table, watermarks: Mapping[str, int]) -> None:
        """Add ``rows`` (of ``schema(table)``) and set the watermarks in one durable step.

        Raises ReplayError, and adds nothing, if a watermark is not above what the table has.
        """
        with self._lock:
            delta = self._tables.get(table) or self._create(table)
            for name, version in watermarks.items():
                if (before := delta.transaction_version(name)) is not None and before >= version:
                    raise ReplayError(f"lake: {table} has {name} up to {before}, not to be set to {version}")
            actions: list[AddAction | RemoveAction] = [self._write(table, rows)] if rows.num_rows else []
            self._commit(table, delta, actions, watermarks)

    def watermark(self, table: str, name: str) -> int:
        """The watermark ``name`` of ``table``; 0 if it was never set."""
        with self._lock:
            delta = self._tables.get(table)
            return (delta.transaction_version(name) or 0) if delta else 0

    def scan(self, table: str, columns: Sequence[str] | None = None, filter: pc.Expression | None = None) -> pa.Table:
        """Rows of ``table`` that pass ``filter`` (a pyarrow expression), in no certain order.

        Empty, but with the right columns, before the first append. Raises NotFoundError if there is no such table.
        """
        expected = schema(table)
        with self._lock:
            delta = self._tables.get(table)
            data = delta.to_pyarrow_dataset() if delta else None
        if data is None:
            return expected.empty_table().select(list(columns) if columns is not None else expected.names)
        return data.to_table(columns=list(columns) if columns is not None else None, filter=filter)

    def _create(self, table: str) -> DeltaTable:
        path = self._folder / table
        path.mkdir(parents=True, exist_ok=True)
        delta = DeltaTable.create(path, Schema.from_arrow(schema(table)), mode="ignore")
        _sync(path / "_delta_log" / f"{0:020d}.json")
        for folder in (path, self._folder, self._folder.parent):
            sync_folder(folder)
        self._tables[table] = delta
        return delta

    def _write(self, table: str, rows: pa.Table) -> AddAction:
        path = self._folder / table / f"{uuid.uuid4().hex}.parquet"
        texts = [field.name for field in rows.schema if pa.types.is_string(field.type)]
        pq.write_table(rows.cast(schema(table)), path, compression="zstd", use_dictionary=texts)
        _sync(path)
        statistics = json.dumps({"numRecords": rows.num_rows})
        return AddAction(path.name, path.stat().st_size, {}, int(time.time() * 1000), True, statistics)

    def _commit(
        self, table: str, delta: DeltaTable, actions: list[AddAction | RemoveAction], watermarks: Mapping[str, int]
    ) -> None:
        marks = [Transaction(name, version) for name, version in watermarks.items()]
        try:
            delta.create_write_transaction(
                actions,
                mode="append",
                schema=delta.schema(),
                commit_properties=CommitProperties(app_transactions=marks),
                post_commithook_properties=NO_HOOKS,
            )
        except CommitFailedError as error:
            raise ReplayError(f"lake: {table}: another process writes here: {error}") from None
        delta.update_incremental()
        _sync(self._folder / table / "_delta_log" / f"{delta.version():020d}.json")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _take_back_torn(log: Path) -> None:
    """Remove the last commit if a power cut broke it: ``append`` had not returned, so nobody relies on it."""
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
