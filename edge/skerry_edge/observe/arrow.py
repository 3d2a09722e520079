"""Tables of ``telemetry.TABLES`` as Arrow IPC streams, by nanoarrow (5 MB of memory; pyarrow takes 49).

>>> stream = encode("labels", {"time": [1.0], "prediction_id": ["p1"], "label": ["boot"]})
>>> decode("labels", stream)
{'time': [1.0], 'prediction_id': ['p1'], 'label': ['boot']}
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nanoarrow as na
import numpy as np
from nanoarrow.ipc import StreamWriter

from skerry_shared import telemetry
from skerry_shared.errors import InputError
from skerry_shared.telemetry import TABLES, ColumnType

Column = Sequence[Any]
Rows = dict[str, list[Any]]


def pack(table: str, columns: Mapping[str, Column], thorough: bool = True) -> bytes:
    """One batch of rows as it travels; see ``telemetry.pack``. Raises as ``encode`` does."""
    return telemetry.pack(encode(table, columns), thorough)


def unpack(table: str, payload: bytes) -> Rows:
    """Undo ``pack``. Raises InputError."""
    return decode(table, telemetry.unpack(payload))


def encode(table: str, columns: Mapping[str, Column]) -> bytes:
    """One batch of rows as an Arrow IPC stream. ``columns``: a sequence per column of the table, all of one length.

    Raises InputError if a column is missing or unknown, has another length, or holds a value of the wrong type.
    """
    types = _columns_of(table)
    rows = _check_columns(table, types, columns)
    children = [_encode_column(f"{table}.{name}", kind, columns[name]) for name, kind in types.items()]
    batch = na.c_array_from_buffers(_schema(types), rows, [None], children=children)
    out = io.BytesIO()
    with StreamWriter.from_writable(out) as writer:
        writer.write_stream(batch)
    return out.getvalue()


def decode(table: str, stream: bytes) -> Rows:
    """Undo ``encode``. Raises InputError unless ``stream`` holds this table, with its columns in order and no nulls."""
    types = _columns_of(table)
    try:
        read = na.ArrayStream.from_readable(stream)
        if _fields(read.schema) != _fields(_schema(types)):
            raise InputError(f"{table}: has columns {read.schema!r}")
        rows = read.read_all()
        columns = {name: rows.child(index).to_pylist() for index, name in enumerate(types)}
    except (RuntimeError, ValueError) as error:  # NanoarrowException is a RuntimeError; broken UTF-8 is a ValueError
        raise InputError(f"{table}: not an Arrow IPC stream: {error}") from None
    for name, column in columns.items():
        if any(value is None for value in column):
            raise InputError(f"{table}.{name}: a value is null")
    return columns


def _columns_of(table: str) -> dict[str, ColumnType]:
    if table not in TABLES:
        raise InputError(f"table: no {table!r}; known: {', '.join(TABLES)}")
    return TABLES[table]


def _check_columns(table: str, types: Mapping[str, ColumnType], columns: Mapping[str, Column]) -> int:
    if columns.keys() != types.keys():
        raise InputError(f"{table}: has columns {', '.join(columns)}; needs {', '.join(types)}")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"{table}: columns differ in length: {lengths}")
    return next(iter(lengths.values()))


def _encode_column(name: str, kind: ColumnType, column: Column) -> Any:
    try:
        return _ENCODERS[kind](column)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{name}: not a column of {kind}: {error}") from None


def _strings(column: Column) -> Any:
    return _bytes_as(na.string(), [value.encode() for value in column])


def _binaries(column: Column) -> Any:
    return _bytes_as(na.binary(), column)


def _bytes_as(kind: Any, values: Column) -> Any:
    return na.c_array_from_buffers(kind, len(values), [None, _offsets(values), b"".join(values)])


def _lists(column: Column) -> Any:
    flat = np.concatenate([_int64(value) for value in column]) if len(column) else np.empty(0, np.int64)
    offsets = [None, _offsets(column)]
    return na.c_array_from_buffers(na.list_(na.int64()), len(column), offsets, children=[_plain(na.int64(), flat)])


def _plain(kind: Any, values: Any) -> Any:
    return na.c_array_from_buffers(kind, len(values), [None, values])


def _int64(column: Column) -> Any:
    values = np.asarray(column)
    if len(values) and values.dtype.kind not in "iu":
        raise TypeError(f"{values.dtype} is not an integer")
    return values.astype(np.int64)


def _offsets(values: Column) -> Any:
    return np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)


_ENCODERS: dict[ColumnType, Callable[[Column], Any]] = {
    "string": _strings,
    "binary": _binaries,
    "int64": lambda column: _plain(na.int64(), _int64(column)),
    "float64": lambda column: _plain(na.float64(), np.asarray(column, np.float64)),
    "list<int64>": _lists,
}

_TYPES: dict[ColumnType, Any] = {
    "string": na.string(),
    "binary": na.binary(),
    "int64": na.int64(),
    "float64": na.float64(),
    "list<int64>": na.list_(na.int64()),
}


def _schema(types: Mapping[str, ColumnType]) -> Any:
    return na.struct({name: _TYPES[kind] for name, kind in types.items()})


def _fields(schema: Any) -> list[tuple[str, Any, Any]]:
    return [(field.name, field.type, _item(field)) for field in schema.fields]


def _item(field: Any) -> Any:
    return field.value_type.type if field.type == na.Type.LIST else None
