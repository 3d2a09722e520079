"""From an opened payload to rows of the lake, checked against ``telemetry.TABLES`` and against what can be true.

A device may have been taken over: nothing that it sends may cost more than its size, stop the cloud, or pass for
somebody else's word. A batch is taken whole or not at all.

    payload → decode, one by one → rows_of, what came together → rows of a table

A device may be older than the cloud: columns that are in ``telemetry.DEFAULTS`` may lack. It may not be newer.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from skerry_cloud.ingest import windows
from skerry_cloud.ingest.lake import QUARANTINE, columns, schema
from skerry_shared import latency
from skerry_shared.errors import InputError
from skerry_shared.identity import NAME
from skerry_shared.inputs import ENCODINGS
from skerry_shared.release import Channel
from skerry_shared.telemetry import CLASSES, DEFAULTS, NO_HEAT, STRATA, TABLES, Header, unpack
from skerry_shared.windows import MOST

REASON = 500  # characters of why a batch was refused

ROWS = 1 << 16  # in a batch; a device sends some thousand late labels at most
RELEASES = 1 << 31  # of a workload, at most
WINDOWS = 64  # likewise; a device sends one, and each becomes many rows
TEXT = 4096  # bytes of a string: 1024 characters, whatever they are
LONG_TEXT = 1 << 16  # bytes of a reason or a fault
BINS = 1 << 16  # of a list of counts
END_OF_TIME = 253_402_300_800.0  # Unix seconds; from the year 10000 on there are no dates
SUBJECTS = ("update", "agent", "runtime")  # what a device may report events of; others are the cloud's own

VERSION_5, RECORD_BATCH, CUSTOM_METADATA, COMPRESSION = 4, 2, 4, 3  # Arrow's Message.fbs and Schema.fbs

Rule = Callable[[pa.ChunkedArray], bool]
Model = tuple[str, int]  # workload, release


@dataclass(frozen=True)
class Told:
    """A batch that is whole: its rows as the device sent them, ``size`` bytes unpacked."""

    header: Header
    rows: Sequence[pa.RecordBatch]
    size: int

    @property
    def models(self) -> frozenset[Model]:
        """Whose windows these are, as far as they can be any's."""
        if self.header.table != "windows":
            return frozenset()
        return frozenset(model for rows in self.rows for model in _models(rows))


def decode(header: Header, payload: bytes) -> Told:
    """Rows with the columns of ``columns(header.table)``, values unchecked. Raises InputError, saying what is wrong."""
    if header.table not in TABLES:
        raise InputError(f"table: no {header.table!r}")
    stream = unpack(payload)
    try:
        told = Told(header, list(_read(header.table, stream)), len(stream))
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{header.table}: not an Arrow IPC stream: {error}") from None
    most = WINDOWS if header.table == "windows" else ROWS
    if (count := sum(rows.num_rows for rows in told.rows)) > most:
        raise InputError(f"{header.table}: {count} rows; {most} may come")
    return told


def rows_of(told: Sequence[Told], channels: Sequence[Mapping[Model, Sequence[Channel]]], received: float) -> pa.Table:
    """Rows of ``schema(table)`` from batches of one table, ``channels`` of each batch's models beside them.

    Raises InputError, saying what does not fit, if any value of any batch cannot be.
    """
    table = told[0].header.table
    rows = pa.Table.from_batches([rows for one in told for rows in one.rows], columns(table)).combine_chunks()
    _check(table, rows, sum(one.size for one in told))
    whose = np.repeat(np.arange(len(told)), [sum(rows.num_rows for rows in one.rows) for one in told])
    if table == "windows":
        rows, places = windows.expand(rows, [channels[place] for place in whose.tolist()])
        whose = whose[places]
    return _with_origin(rows, [one.header for one in told], whose, received)


def refuse(batches: Sequence[tuple[Header, bytes, str]], received: float) -> pa.Table:
    """Rows of the quarantine that keep batches, header and payload, which do not fit, and why."""
    told = {
        "table": [header.table[:REASON] for header, _, _ in batches],
        "reason": [reason for _, _, reason in batches],
        "payload": [payload for _, payload, _ in batches],
    }
    types = pa.schema([schema(QUARANTINE).field(name) for name in told])
    headers = [header for header, _, _ in batches]
    return _with_origin(pa.table(told, schema=types), headers, np.arange(len(batches)), received)


def reason_of(error: Exception) -> str:
    """What to say of a batch that ``error`` refused: ``REASON`` characters at most, that can be stored and sent."""
    text = str(error) if isinstance(error, InputError) else f"cannot be read: {error!r}"
    return text.encode(errors="replace").decode()[:REASON]


def _read(table: str, stream: bytes) -> Iterator[pa.RecordBatch]:
    messages = iter(pa.ipc.MessageReader.open_stream(stream))
    told = _columns_told(table, next(messages, None))
    for message in messages:
        _check_message(table, message)
        rows = pa.ipc.read_record_batch(message, told)
        rows.validate(full=True)
        yield rows if rows.schema.names == columns(table).names else _filled(table, rows)


def _columns_told(table: str, message: pa.ipc.Message | None) -> pa.Schema:
    """Those of a stream that begins so, of which each is the table's. Raises InputError."""
    if message is None or message.type != "schema":
        raise InputError(f"{table}: an Arrow IPC stream begins with its schema")
    told, wanted = pa.ipc.read_schema(message), columns(table)
    if told.equals(wanted):
        return wanted
    for name, kind in zip(told.names, told.types, strict=True):
        if name not in wanted.names:
            raise InputError(f"{table}.{name}: not known here; a cloud must be as new as its devices")
        if kind != wanted.field(name).type or told.names.count(name) > 1:
            raise InputError(f"{table}.{name}: is {kind}, not {wanted.field(name).type}, or comes twice")
    if missing := {*wanted.names} - {*told.names, *DEFAULTS.get(table, {})}:
        raise InputError(f"{table}.{min(missing)}: is missing")
    return wanted if told.names == wanted.names else told


def _filled(table: str, rows: pa.RecordBatch) -> pa.RecordBatch:
    """In the table's order, with the defaults of columns that an older device does not have."""
    arrays = [
        rows[field.name]
        if field.name in rows.schema.names
        else pa.repeat(pa.scalar(DEFAULTS[table][field.name], field.type), rows.num_rows)
        for field in columns(table)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=columns(table))


def _models(rows: pa.RecordBatch) -> Iterator[Model]:
    """Those that there may be; to ask for others could be more than a database bears."""
    for workload, release in zip(rows["workload"].to_pylist(), rows["release"].to_pylist(), strict=True):
        if workload is not None and NAME.fullmatch(workload) and release is not None and 0 <= release < RELEASES:
            yield workload, release


def _check_message(table: str, message: pa.ipc.Message) -> None:
    """Refuse whatever would make Arrow allocate more than the stream's size: compressed buffers, and dictionaries."""
    if message.type != "record batch":
        raise InputError(f"{table}: has a {message.type}; only a schema and record batches may come")
    if _compressed(message.metadata.to_pybytes()):
        raise InputError(f"{table}: its buffers are compressed, or not of Arrow's format version 5")


def _compressed(metadata: bytes) -> bool:
    """Whether a record batch's header (flatbuffers, verified by Arrow) says so, or may say so in an older way."""
    root = _follow(metadata, 0)
    version, header = _field(metadata, root, 0), _field(metadata, root, RECORD_BATCH)
    if not version or not header or struct.unpack_from("<h", metadata, version)[0] != VERSION_5:
        return True
    custom = _field(metadata, root, CUSTOM_METADATA)
    return bool(custom or _field(metadata, _follow(metadata, header), COMPRESSION))


def _follow(buffer: bytes, at: int) -> int:
    offset: int = struct.unpack_from("<I", buffer, at)[0]
    return at + offset


def _field(buffer: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffers table stands; 0 if it is left out."""
    entries = table - struct.unpack_from("<i", buffer, table)[0]
    place = 4 + 2 * number
    if place >= struct.unpack_from("<H", buffer, entries)[0]:
        return 0
    offset: int = struct.unpack_from("<H", buffer, entries + place)[0]
    return table + offset if offset else 0


def _check(table: str, rows: pa.Table, size: int) -> None:
    """Raises InputError, naming the column, for a value that cannot be."""
    if rows.nbytes > size:
        raise InputError(f"{table}: its buffers overlap: {rows.nbytes} bytes of rows in a stream of {size}")
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if column.null_count or (pa.types.is_list(column.type) and column.combine_chunks().flatten().null_count):
            raise InputError(f"{table}.{name}: a value is null")
        if not _may_be(name, column):
            raise InputError(f"{table}.{name}: a value is not possible, or too long")
    if "start" in rows.column_names and not _all(pc.less_equal(rows["start"], rows["end"])):
        raise InputError(f"{table}.end: before start")
    if "audit" in rows.column_names and not _all(pc.less_equal(rows["audit"], rows["probability"])):
        raise InputError(f"{table}.audit: above probability")


def _may_be(name: str, column: pa.ChunkedArray) -> bool:
    if pa.types.is_string(column.type) and not _all(
        pc.less_equal(pc.binary_length(column), LONG_TEXT if name in ("reason", "fault") else TEXT)
    ):
        return False
    return name not in RULES or RULES[name](column)


def _is_time(column: pa.ChunkedArray) -> bool:
    return _all(pc.and_(pc.greater_equal(column, 0.0), pc.less(column, END_OF_TIME)))  # a NaN is neither


def _is_probability(column: pa.ChunkedArray) -> bool:
    return _all(pc.and_(pc.greater(column, 0.0), pc.less_equal(column, 1.0)))


def _is_share(column: pa.ChunkedArray) -> bool:
    return _all(pc.and_(pc.greater_equal(column, 0.0), pc.less_equal(column, 1.0)))


def _is_number(column: pa.ChunkedArray) -> bool:
    return _all(pc.greater_equal(column, 0))


def _is_amount(column: pa.ChunkedArray) -> bool:
    return _all(pc.and_(pc.greater_equal(column, 0.0), pc.is_finite(column)))


def _is_count(column: pa.ChunkedArray) -> bool:
    return _all(pc.and_(pc.greater_equal(column, 0), pc.less_equal(column, MOST)))


def _are_counts(column: pa.ChunkedArray) -> bool:
    flat = column.combine_chunks().flatten()
    within = pc.and_(pc.greater_equal(flat, 0), pc.less_equal(flat, MOST))
    return _all(within) and _all(pc.less_equal(pc.list_value_length(column), BINS))


def _is_heat(column: pa.ChunkedArray) -> bool:
    return _all(pc.and_(pc.greater_equal(column, NO_HEAT), pc.is_finite(column)))


def _is_latency(column: pa.ChunkedArray) -> bool:
    return _are_counts(column) and _all(pc.equal(pc.list_value_length(column), latency.BINS))


def _one_of(words: Iterable[str]) -> Rule:
    known = pa.array(list(words))
    return lambda column: _all(pc.is_in(column, known))


def _all(holds: pa.ChunkedArray) -> bool:
    answer: bool = pc.all(holds, min_count=0).as_py()
    return answer


RULES: dict[str, Rule] = {
    "time": _is_time,
    "start": _is_time,
    "end": _is_time,
    "probability": _is_probability,
    "audit": _is_probability,
    "stratum": _one_of(STRATA),
    "encoding": _one_of(ENCODINGS),
    "release": _is_number,
    "rollout": _is_number,
    "champion": _is_number,
    "latency": _is_latency,
    **dict.fromkeys(
        (
            "waited",
            "shared",
            "shed",
            "expired",
            "refused",
            "compared",
            "agreed",
            "failed",
            "answered",
            "errors",
            "batches",
        ),
        _is_count,
    ),
    **dict.fromkeys(("shift", "agreement_low", "agreement_high"), _is_share),
    **dict.fromkeys(("max_diff", "p50_ms", "load_ms", "memory_mb", "throttled_s"), _is_amount),
    "hottest_c": _is_heat,
    "job": _is_number,
    "subject": _one_of(SUBJECTS),
    "class": _one_of(CLASSES),
}


def _with_origin(rows: pa.Table, headers: Sequence[Header], whose: NDArray[np.intp], received: float) -> pa.Table:
    """``whose``, rising, is of each row the place of its batch in ``headers``."""
    firsts = np.searchsorted(whose, np.arange(len(headers)))
    origin = {
        "device": pa.array([header.device for header in headers], pa.string()).take(pa.array(whose)),
        "session": pa.array([header.session.hex() for header in headers], pa.string()).take(pa.array(whose)),
        "counter": pa.array(np.array([header.counter for header in headers], np.int64)[whose]),
        "row": pa.array(np.arange(len(whose)) - firsts[whose]),
        "received": pa.repeat(pa.scalar(received, pa.float64()), len(whose)),
    }
    for name, column in origin.items():
        rows = rows.append_column(name, column)
    return rows
