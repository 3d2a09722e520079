"""SQL over the lake, read only: DuckDB over the rows that are there now, in both tiers.

A query sees the lake's tables and nothing else: no file, no network, no setting. It has limits of memory, time and size
of its result, so that it cannot stop the process that also takes in telemetry.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from skerry_cloud.ingest.lake import Lake
from skerry_shared.errors import StateError, UsageError

if TYPE_CHECKING:
    import duckdb

MEMORY = "1GB"  # beyond which DuckDB writes to the folder of the result
SECONDS = 60.0
RESULT = 1 << 30  # bytes
BATCH = 1 << 16  # rows


def query(lake: Lake, sql: str, target: Path) -> int:
    """Write what one SELECT gives to ``target``, an Arrow IPC stream; the number of its rows.

    Raises UsageError if it is not one SELECT, cannot be answered, or not within the limits; StateError without DuckDB.
    """
    with _connection(lake, target.parent) as connection, _errors():
        _check(connection, sql)
        timer = threading.Timer(SECONDS, connection.interrupt)
        timer.start()
        try:
            return _write(connection.sql(sql).to_arrow_reader(BATCH), target)
        finally:
            timer.cancel()


@contextmanager
def _connection(lake: Lake, folder: Path) -> "Iterator[duckdb.DuckDBPyConnection]":
    try:
        import duckdb
    except ImportError:
        raise StateError("query: DuckDB is not where the cloud runs: pip install 'skerry[duckdb]'") from None
    options: dict[str, Any] = {
        "memory_limit": MEMORY, "threads": 1, "temp_directory": str(folder), "python_enable_replacements": False,
    }  # fmt: skip
    with duckdb.connect(config=options) as connection:
        for table in lake.names:
            connection.register(table, lake.dataset(table))
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        yield connection


@contextmanager
def _errors() -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.InterruptException:
        raise UsageError(f"query: took more than {SECONDS:g} s; narrow it, best by a range of received") from None
    except (duckdb.Error, pa.ArrowException) as error:
        raise UsageError(f"query: {error}") from None


def _check(connection: "duckdb.DuckDBPyConnection", sql: str) -> None:
    import duckdb

    kinds = [statement.type for statement in connection.extract_statements(sql)]
    if len(kinds) != 1:
        raise UsageError(f"query: needs one statement, got {len(kinds)}")
    if kinds[0] not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise UsageError(f"query: only reads, as in SELECT … FROM samples; this is {kinds[0].name}")


def _write(reader: Any, target: Path) -> int:
    rows = 0
    with target.open("wb") as file, pa.ipc.new_stream(file, reader.schema) as stream:
        for batch in reader:
            stream.write_batch(batch)
            rows += batch.num_rows
            if file.tell() > RESULT:
                raise UsageError(f"query: its result has more than {RESULT >> 20} MB; narrow it, or add LIMIT")
    return rows
