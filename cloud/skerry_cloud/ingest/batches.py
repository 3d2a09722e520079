"""From an opened payload to rows of the lake, checked against ``telemetry.TABLES`` and against what can be true.

A device may have been taken over: nothing that it sends may cost more than its size, stop the cloud, or pass for
somebody else's word. A batch is taken whole or not at all.
"""

import struct
from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.compute as pc

from skerry_cloud.ingest.lake import QUARANTINE, columns, schema
from skerry_shared import latency
from skerry_shared.errors import InputError
from skerry_shared.inputs import ENCODINGS
from skerry_shared.telemetry import CLASSES, MAX_BATCH, NO_HEAT, STRATA, TABLES, Header, unpack

REASON = 500  # characters of why a batch was refused

ROWS = 1 << 16  # in a batch; a device sends some thousand late labels at most
TEXT = 4096  # bytes of a string: 1024 characters, whatever they are
LONG_TEXT = 1 << 16  # bytes of a reason or a fault
BINS = 1 << 16  # of a channel
MOST = 1 << 40  # that may have been counted in a bin or of anything else, so that sums stay exact
END_OF_TIME = 253_402_300_800.0  # Unix seconds; from the year 10000 on there are no dates
SUBJECTS = ("update", "agent", "runtime")  # what a device may report events of; others are the cloud's own

VERSION_5, RECORD_BATCH, CUSTOM_METADATA, COMPRESSION = 4, 2, 4, 3  # Arrow's Message.fbs and Schema.fbs

Rule = Callable[[pa.ChunkedArray], bool]


def read(header: Header, payload: bytes, received: float) -> pa.Table:
    """The batch as rows of ``schema(header.table)``. Raises InputError, saying what does not fit."""
    if header.table not in TABLES:
        raise InputError(f"table: no {header.table!r}")
    told = _decode(header.table, unpack(payload))
    if told.num_rows > ROWS or told.nbytes > MAX_BATCH:  # buffers may overlap in the stream
        raise InputError(f"{header.table}: {told.num_rows} rows, {told.nbytes} bytes; {ROWS}, {MAX_BATCH} may come")
    for name, column in zip(told.column_names, told.columns, strict=True):
        if column.null_count or (pa.types.is_list(column.type) and column.combine_chunks().flatten().null_count):
            raise InputError(f"{header.table}.{name}: a value is null")
        if not _may_be(name, column):
            raise InputError(f"{header.table}.{name}: a value is not possible, or too long")
    if "start" in told.column_names and not _all(pc.less_equal(told["start"], told["end"])):
        raise InputError(f"{header.table}.end: before start")
    if "audit" in told.column_names and not _all(pc.less_equal(told["audit"], told["probability"])):
        raise InputError(f"{header.table}.audit: above probability")
    return _with_origin(told.cast(columns(header.table)), header, received)


def refuse(header: Header, payload: bytes, reason: str, received: float) -> pa.Table:
    """The one row of the quarantine that keeps a batch which could not be read."""
    told = {"table": [header.table[:REASON]], "reason": [reason], "payload": [payload]}
    types = pa.schema([schema(QUARANTINE).field(name) for name in told])
    return _with_origin(pa.table(told, schema=types), header, received)


def reason_of(error: Exception) -> str:
    """What to say of a batch that ``error`` refused: ``REASON`` characters at most, that can be stored and sent."""
    text = str(error) if isinstance(error, InputError) else f"cannot be read: {error!r}"
    return text.encode(errors="replace").decode()[:REASON]


def _decode(table: str, stream: bytes) -> pa.Table:
    try:
        for message in pa.ipc.MessageReader.open_stream(stream):
            _check_message(table, message)
        reader = pa.ipc.open_stream(stream)
        if not reader.schema.equals(columns(table)):
            raise InputError(f"{table}: has columns {reader.schema.to_string(show_field_metadata=False)}")
        told = reader.read_all()
        told.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{table}: not an Arrow IPC stream: {error}") from None
    return told


def _check_message(table: str, message: pa.ipc.Message) -> None:
    """Refuse whatever would make Arrow allocate more than the stream's size: compressed buffers, and dictionaries."""
    if message.type not in ("schema", "record batch"):
        raise InputError(f"{table}: has a {message.type}; only a schema and record batches may come")
    if message.type == "record batch" and _compressed(message.metadata.to_pybytes()):
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
    "counts": _are_counts,
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
