"""From an opened payload to rows of the lake, checked against ``telemetry.TABLES``."""

import pyarrow as pa

from skerry_cloud.ingest.lake import QUARANTINE, columns, schema
from skerry_shared.errors import InputError
from skerry_shared.telemetry import TABLES, Header, unpack

REASON = 500  # characters


def read(header: Header, payload: bytes, received: float) -> pa.Table:
    """The batch as rows of ``schema(header.table)``. Raises InputError, saying what does not fit."""
    if header.table not in TABLES:
        raise InputError(f"table: no {header.table!r}")
    try:
        told = pa.ipc.open_stream(unpack(payload)).read_all()
        told.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{header.table}: not an Arrow IPC stream: {error}") from None
    if not told.schema.equals(columns(header.table)):
        raise InputError(f"{header.table}: has columns {told.schema.to_string(show_field_metadata=False)}")
    for name, column in zip(told.column_names, told.columns, strict=True):
        if column.null_count or (pa.types.is_list(column.type) and column.combine_chunks().flatten().null_count):
            raise InputError(f"{header.table}.{name}: a value is null")
    return _with_origin(told.cast(columns(header.table)), header, received)


def refuse(header: Header, payload: bytes, reason: str, received: float) -> pa.Table:
    """The one row of the quarantine that keeps a batch which could not be read."""
    told = {"table": [header.table[:REASON]], "reason": [reason[:REASON]], "payload": [payload]}
    types = pa.schema([schema(QUARANTINE).field(name) for name in told])
    return _with_origin(pa.table(told, schema=types), header, received)


def _with_origin(rows: pa.Table, header: Header, received: float) -> pa.Table:
    count = rows.num_rows
    origin = {
        "device": pa.repeat(pa.scalar(header.device), count),
        "session": pa.repeat(pa.scalar(header.session.hex()), count),
        "counter": pa.repeat(pa.scalar(header.counter, pa.int64()), count),
        "row": pa.array(range(count), pa.int64()),
        "received": pa.repeat(pa.scalar(received, pa.float64()), count),
    }
    for name, column in origin.items():
        rows = rows.append_column(name, column)
    return rows
