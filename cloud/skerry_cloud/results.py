"""What a query of the lake gave, an Arrow IPC stream in a file, as other things that people use."""

import base64
import csv
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def names(answer: Path) -> list[str]:
    """Of its columns."""
    with _opened(answer) as stream:
        return list(stream.schema.names)


def rows(answer: Path, most: int | None) -> tuple[list[dict[str, Any]], int]:
    """The first rows with values that JSON has, and how many more there are."""
    with _opened(answer) as stream:
        table = stream.read_all()
    shown = table.slice(0, most).to_pylist()
    return [{name: _plain(value) for name, value in row.items()} for row in shown], table.num_rows - len(shown)


def to_csv(answer: Path, file: Path) -> int:
    """The number of rows written; lists and structs as JSON."""
    with _opened(answer) as stream, file.open("w", newline="") as content:
        table, count = csv.writer(content), 0
        table.writerow(stream.schema.names)
        for batch in stream:
            table.writerows([_cell(value) for value in row.values()] for row in batch.to_pylist())
            count += batch.num_rows
    return count


def to_parquet(answer: Path, file: Path) -> int:
    """The number of rows written."""
    with _opened(answer) as stream, pq.ParquetWriter(file, stream.schema, compression="zstd") as content:
        count = 0
        for batch in stream:
            content.write_batch(batch)
            count += batch.num_rows
    return count


@contextmanager
def _opened(answer: Path) -> Iterator[pa.RecordBatchReader]:
    with pa.memory_map(str(answer)) as file, pa.ipc.open_stream(file) as stream:
        yield stream


def _cell(value: Any) -> Any:
    plain = _plain(value)
    return json.dumps(plain) if isinstance(plain, (list, dict)) else plain


def _plain(value: Any) -> Any:
    """As JSON has it: bytes in base64, moments in ISO 8601, what is no number as null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (int, float, type(None))) else str(value)
