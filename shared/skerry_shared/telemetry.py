"""What a device reports, as plain data: tables of rows, sealed in batches, acknowledged by counter.

A batch is one table's rows as an Arrow IPC stream, compressed with zstd. ``TABLES`` is the one place that says which
columns there are; the device encodes by it and the cloud checks against it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from skerry_shared.errors import InputError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Table = Literal["windows", "samples", "labels", "events", "shadow", "load", "service", "losses", "measured"]
ColumnType = Literal["string", "int64", "float64", "binary", "list<int64>"]

TABLES: dict[str, dict[str, ColumnType]] = {
    # one row per model and window of time: bin counts of all channels of the bundle's baseline, see ``windows``
    "windows": {
        "workload": "string",
        "release": "int64",
        "start": "float64",  # Unix seconds
        "end": "float64",
        "packed": "binary",
    },
    # one row per sampled prediction: what went in, what came out, and how likely it was to be sampled
    "samples": {
        "workload": "string",
        "release": "int64",
        "time": "float64",
        "prediction_id": "string",
        "input": "binary",  # the raw tensor of one example; its shape is in the manifest
        "encoding": "string",  # its numpy dtype: the manifest's, or float16 where the device declares a lossy profile
        "scores": "binary",  # float32, one per label
        "stratum": "string",  # one of STRATA: why it was taken
        "probability": "float64",  # of this answer's inclusion in the sample, 0 to 1
        "audit": "float64",  # … of any answer's at that time, at least: the part of it that is drawn from all alike
    },
    # the late truth of an earlier prediction
    "labels": {"time": "float64", "prediction_id": "string", "label": "string"},
    # a change of state on the device: who or what, when, from, to, why
    "events": {
        "time": "float64",
        "subject": "string",
        "from": "string",
        "to": "string",
        "reason": "string",
        "workload": "string",
        "release": "int64",
        "rollout": "int64",
    },
    # one row per candidate that answered a sample of live inputs beside the champion: the report that it was to bring
    "shadow": {
        "workload": "string",
        "release": "int64",  # the candidate's
        "champion": "int64",  # release that served meanwhile
        "rollout": "int64",
        "start": "float64",  # Unix seconds
        "end": "float64",
        "compared": "int64",  # live inputs that both answered
        "agreed": "int64",  # … with the same top class
        "failed": "int64",  # … the candidate with an error or with scores that are no numbers
        "shift": "float64",  # total variation distance of their answers, 0 to 1
        "agreement_low": "float64",  # Wilson's 95 % interval of the share that agrees
        "agreement_high": "float64",
        "champion_p50_ms": "float64",  # both measured in the same thread, one after the other
        "champion_p99_ms": "float64",
        "candidate_p50_ms": "float64",
        "candidate_p99_ms": "float64",
    },
    # one row per model and window of time in which not every request could run at once; of servers without a workload
    "load": {
        "workload": "string",
        "release": "int64",
        "start": "float64",  # Unix seconds
        "end": "float64",
        "waited": "int64",  # requests that had to wait
        "shared": "int64",  # … and then ran as part of another's batch
        "shed": "int64",  # … that were refused at once, for too many waited
        "expired": "int64",  # … whose deadline passed before they began
        "refused": "int64",  # connections beyond the limit; no model is known of these
    },
    # one row per model and window of time in which it ran: how long that took, and how the board fared meanwhile
    "service": {
        "workload": "string",
        "release": "int64",
        "start": "float64",  # Unix seconds
        "end": "float64",
        "answered": "int64",  # examples
        "errors": "int64",  # runs that failed
        "latency": "list<int64>",  # runs by the time that they took, in the bins of ``latency.EDGES_S``
        "hottest_c": "float64",  # of the board's thermal zones, the highest in the window; NO_HEAT: it has none
        "throttled_s": "float64",  # in which the board was slowed down
        "power_mode": "string",  # at the end; empty: not known
    },
    # what the device could not keep, one row per class and reason whenever the count rose: the last one counts
    "losses": {
        "time": "float64",
        "class": "string",  # one of CLASSES
        "reason": "string",  # "bound": gave way, or found no room; "disk": it was full or broken; "budget": beyond it
        "batches": "int64",  # since the device was enrolled
    },
    # one row per provider on which a benchmark job's candidate was tried; one without a provider: it was not
    "measured": {
        "time": "float64",  # Unix seconds
        "workload": "string",
        "job": "int64",  # counter of the assignment that asked
        "sha256": "string",  # of the candidate's bundle
        "provider": "string",
        "fault": "string",  # why it cannot be used; empty: it can
        "max_diff": "float64",  # from the golden outputs
        "p50_ms": "float64",  # of one example
        "load_ms": "float64",
        "memory_mb": "float64",  # that the model took to be loaded and to answer
        "device_class": "string",  # equal where the same engines run as fast
    },
}

# columns that are younger than their table, and what they are in batches of agents that do not have them
DEFAULTS: dict[str, dict[str, Any]] = {}

# of tables, the most precious first: what a device sends first, and gives up last when it has no more room
CLASSES: dict[str, tuple[Table, ...]] = {
    "labels": ("labels",),
    "health": ("events", "shadow", "losses", "measured"),
    "samples": ("samples",),
    "metrics": ("windows", "load", "service"),
}
CLASS_OF: dict[str, str] = {table: name for name, tables in CLASSES.items() for table in tables}

STRATA = AUDIT, UNCERTAIN, RARE = "audit", "uncertain", "rare"  # of samples; "audit" is a random sample of all answers
NO_HEAT = -273.15  # degrees Celsius, of a board without a sensor: no maximum is ever below it

MAX_BATCH = 16 << 20  # bytes of an unpacked batch; a device flushes far earlier


# What batches have in common, so that it need not travel; made by scripts/gen_dictionary. Part of the contract.
DICTIONARY = zstd.ZstdDict(Path(__file__).with_name("batches.dict").read_bytes())
SMALL = 64 << 10  # bytes of a stream that is worth the thorough level: some ms
THOROUGH, QUICK = 15, 3


def pack(stream: bytes, thorough: bool = True) -> bytes:
    """Compress an Arrow IPC stream for sealing; ``thorough`` is no use where it is unpacked on this machine again."""
    level = THOROUGH if thorough and len(stream) <= SMALL else QUICK
    wanted = zstd.CompressionParameter
    options: dict[int, int] = {wanted.compression_level: level, wanted.checksum_flag: 1, wanted.dict_id_flag: 0}
    digested = DICTIONARY.as_digested_dict  # once for each level; else it would be most of the work, each time
    return zstd.compress(stream, options=options, zstd_dict=digested)


def unpack(payload: bytes) -> bytes:
    """Undo ``pack``. Raises InputError if it is not zstd or unpacks to more than ``MAX_BATCH`` bytes."""
    unpacker = zstd.ZstdDecompressor(DICTIONARY)
    try:
        size = zstd.get_frame_info(payload).decompressed_size
        if size is None or size > MAX_BATCH:
            raise InputError(f"batch: unpacked size {size} is not within 0 to {MAX_BATCH} bytes")
        stream = unpacker.decompress(payload, MAX_BATCH)
    except zstd.ZstdError as error:
        raise InputError(f"batch: not a zstd frame: {error}") from None
    if not unpacker.eof:
        raise InputError("batch: its zstd frame is cut off")
    return stream


@dataclass(frozen=True)
class Session:
    """Opens a session. ``wrapped`` is the session's AES key, sealed with HPKE to the fleet's ingest key."""

    fleet: str
    device: str
    session: bytes
    ingest_key: str
    wrapped: bytes


@dataclass(frozen=True)
class SignedSession:
    """A serialised Session, the device's ECDSA signature of it, and the PEM certificate of the key that signed."""

    document: bytes
    signature: bytes
    certificate: bytes


@dataclass(frozen=True)
class Header:
    """Associated data of a batch. The counter is nonce, order and idempotence key in one."""

    device: str
    session: bytes
    counter: int
    table: str


@dataclass(frozen=True)
class Sealed:
    """A serialised Header and the AES-256-GCM ciphertext that it belongs to."""

    header: bytes
    ciphertext: bytes


@dataclass(frozen=True)
class Up:
    """Device to cloud: exactly one of the two.

    ``next`` comes with a session: the counter of its next batch. All before is acknowledged, or will never come.
    """

    session: SignedSession | None = None
    batch: Sealed | None = None
    next: int = 0


@dataclass(frozen=True)
class Ack:
    """All of the session up to and including ``counter`` is durable. ``refused`` says why what was not kept was not."""

    session: bytes
    counter: int
    refused: str = ""


@dataclass(frozen=True)
class Down:
    """Cloud to device: exactly one of the three.

    ``desired`` is a serialised Signed assignment. ``again``: what is in flight may have been lost on the way.
    """

    ack: Ack | None = None
    desired: bytes | None = None
    again: bool | None = None
