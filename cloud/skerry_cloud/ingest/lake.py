"""Telemetry at rest: a Delta Lake table per table of ``telemetry.TABLES``, and ``quarantine`` for what did not fit.

``append`` is durable when it returns, and exactly-once: every commit carries watermarks, Delta's transaction ids
(application → version), and a watermark that does not rise is refused, as is one that another process set meanwhile.
Any number of processes may read and append; one keeps the tables (``upkeep``).
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from skerry_cloud.ingest.table import Table
from skerry_shared.errors import NotFoundError
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
KEPT: dict[str, dict[str, ColumnType]] = {  # of tables that the lake keeps in another form than devices send
    # one row per channel of a model and window of time
    "windows": {
        "workload": "string",
        "release": "int64",
        "start": "float64",
        "end": "float64",
        "channel": "string",
        "counts": "list<int64>",
    },
    # one row per batch that opened, but did not fit
    QUARANTINE: {"table": "string", "reason": "string", "payload": "binary"},
}


@cache
def columns(table: str) -> pa.Schema:
    """The columns that a device sends for ``table``."""
    return pa.schema([(name, TYPES[kind]) for name, kind in TABLES[table].items()])


@cache
def schema(table: str) -> pa.Schema:
    """The columns of ``table`` in the lake. Raises NotFoundError."""
    kept = KEPT.get(table) or TABLES[_known(table)]
    return pa.schema([*((name, TYPES[kind]) for name, kind in kept.items()), *ORIGIN.items()])


class Lake:
    """A folder of tables, and where their old rows move to. Blocks on disk; any thread may call any method."""

    def __init__(self, folder: Path, cold: str = "") -> None:
        """Tables are created in ``folder`` when first written to. ``cold``: a URL or an absolute path; "" for none.

        Raises ConfigError if rows were moved to a cold tier that is not ``cold``.
        """
        self._tables = {
            table: Table(folder / table, schema(table), f"{cold}/{table}" if cold else "")
            for table in (*TABLES, QUARANTINE)
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tables."""
        return tuple(self._tables)

    def table(self, name: str) -> Table:
        """Raises NotFoundError."""
        return self._tables[_known(name)]

    def append(
        self, table: str, rows: pa.Table, watermarks: Mapping[str, int], before: Mapping[str, int] | None = None
    ) -> None:
        """Add ``rows`` (of ``schema(table)``) and set the watermarks in one durable step.

        ``before`` is what the watermarks were when the rows were chosen; by default what they are known to be now.
        Raises ReplayError, and adds nothing, if a watermark is not that any more, for another process set it, or would
        not rise.
        """
        self.table(table).append(rows, watermarks, before)

    def watermark(self, table: str, name: str) -> int:
        """The watermark ``name`` of ``table``; 0 if it was never set."""
        return self.table(table).watermark(name)

    def news(self, table: str) -> pa.Table:
        """Rows that other processes appended since this was last asked, or since this lake was opened."""
        return self.table(table).news()

    def dataset(self, table: str) -> ds.Dataset:
        """All rows of ``table`` that are there now. Raises NotFoundError if there is no such table."""
        return self.table(table).dataset()

    def scan(self, table: str, columns: Sequence[str] | None = None, filter: pc.Expression | None = None) -> pa.Table:
        """Rows of ``table`` that pass ``filter`` (a pyarrow expression), in no certain order.

        Empty, but with the right columns, before the first append. Raises NotFoundError if there is no such table.
        """
        return self.dataset(table).to_table(columns=list(columns) if columns is not None else None, filter=filter)

    def tables(self) -> list[dict[str, Any]]:
        """Of each table: rows, files and bytes in both tiers, versions, first and last row received (Unix seconds)."""
        return [_figures(table) for table in self._tables.values()]


def _figures(table: Table) -> dict[str, Any]:
    files, (version, cold_version) = table.files(), table.versions
    both, (first, last) = (*files.hot, *files.cold), _received(table.dataset())
    return {
        "table": table.name, "rows": sum(file.rows for file in both), "files": len(both),
        "bytes": sum(file.size for file in both), "cold_bytes": sum(file.size for file in files.cold),
        "version": version, "cold_version": cold_version, "first": first, "last": last,
    }  # fmt: skip


def _received(rows: ds.Dataset) -> tuple[float, float]:
    """When the first and the last row came, from the files' footers; 0 for none."""
    groups = [group for fragment in _fragments(rows) for group in fragment.row_groups]
    bounds = [group.statistics["received"] for group in groups if group.num_rows]
    return min((one["min"] for one in bounds), default=0.0), max((one["max"] for one in bounds), default=0.0)


def _fragments(rows: ds.Dataset) -> list[ds.ParquetFileFragment]:
    return [fragment for fragment in rows.get_fragments() if isinstance(fragment, ds.ParquetFileFragment)]


def _known(table: str) -> str:
    if table not in (*TABLES, QUARANTINE):
        raise NotFoundError(f"lake: no table {table!r}; known: {', '.join((*TABLES, QUARANTINE))}")
    return table
