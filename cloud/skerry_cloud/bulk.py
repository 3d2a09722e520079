"""Answers the rows of a Parquet file by a release's model, where the operator sits: in bulk, so no live traffic.

OUT/000000.parquet, OUT/000001.parquet, … hold the answers of so many rows each, in order: the file's columns but for
the model's input, and behind them ``label``, the top class, and ``scores``, one float32 a label. A part is written
whole or not at all, and a part that is there is not computed again: an interrupted run goes on where it was.
OUT/run.json says what the answers are of; those of another model or file are refused.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skerry_cloud.adapters import models
from skerry_shared.bundle import Bundle
from skerry_shared.errors import InputError
from skerry_shared.files import claim, write_durably
from skerry_shared.release import ANY, Manifest, TensorSpec

ADDED = ("label", "scores")

Progress = Callable[[int, int], None]  # rows that are answered so far, all rows


def answer(source: Path, out: Path, unpacked: Bundle, progress: Progress, size: int = 4096) -> int:
    """Answer every row of the Parquet file ``source``, ``size`` a part; the number of rows.

    Raises InputError that names the column, StateError if ``out`` holds another run's answers, ModelError.
    """
    manifest = unpacked.manifest
    (spec,) = manifest.inputs
    with _open(source) as file:
        _check_columns(file.schema_arrow, spec)
        claim(out, _about(source, file.metadata.num_rows, manifest, size))
        model, done = models.load(unpacked.model), 0
        for number, rows in enumerate(file.iter_batches(size)):
            part = out / f"{number:06}.parquet"
            if not part.exists():
                scores = model.run(examples(rows.column(spec.name), spec, done)).scores
                write_durably(part, _parquet(_answered(rows, spec.name, scores, manifest.labels)))
            done += len(rows)
            progress(done, file.metadata.num_rows)
    return done


def examples(column: pa.Array, spec: TensorSpec, first: int = 0) -> NDArray[Any]:
    """The column as one tensor, example first: raw bytes, or flat lists of numbers that the dtype can hold.

    ``first`` is the number of the first row, for the text of errors. Raises InputError.
    """
    shape = spec.shape[1:]
    where = f"column {spec.name!r}, rows {first} to {first + len(column) - 1}"
    if column.null_count or ANY in shape:
        raise InputError(f"{where}: {'a value is missing' if column.null_count else 'the model takes any shape'}")
    raw = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    width = math.prod(shape) * (np.dtype(spec.dtype).itemsize if raw else 1)
    lengths = pc.unique(pc.binary_length(column) if raw else pc.list_value_length(column)).to_pylist()
    if lengths != [width]:
        unit = "bytes" if raw else "numbers"
        raise InputError(f"{where}: {spec.dtype} {list(shape)} takes {width} {unit} a row, found {lengths}")
    return (_of_bytes if raw else _of_lists)(column, spec.dtype, where).reshape(len(column), *shape)


def _of_bytes(column: pa.Array, dtype: str, _where: str) -> NDArray[Any]:
    return np.frombuffer(b"".join(column.to_pylist()), dtype)


def _of_lists(column: pa.Array, dtype: str, where: str) -> NDArray[Any]:
    numbers = column.flatten()
    try:
        flat: NDArray[Any] = numbers.cast(pa.from_numpy_dtype(np.dtype(dtype))).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{where}: {numbers.type} does not fit into {dtype}: {error}") from None
    if numbers.null_count:
        raise InputError(f"{where}: a number is missing")
    return flat


def _open(source: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{source}: not a Parquet file: {error}") from None


def _check_columns(schema: pa.Schema, spec: TensorSpec) -> None:
    if spec.name not in schema.names:
        raise InputError(f"column {spec.name!r}: the model's input is missing; there are {', '.join(schema.names)}")
    if taken := [name for name in ADDED if name in schema.names]:
        raise InputError(f"column {taken[0]!r}: the answer is to be called so; rename it")
    kind = schema.field(spec.name).type
    flat = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or (flat and _is_number(kind.value_type))):
        raise InputError(f"column {spec.name!r}: {kind} is neither raw bytes nor a flat list of numbers")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _about(source: Path, rows: int, manifest: Manifest, size: int) -> dict[str, Any]:
    release = f"{manifest.workload}/{manifest.release}"
    return {"release": release, "profile": manifest.target.profile, "file": source.name, "rows": rows, "size": size}


def _answered(rows: pa.RecordBatch, name: str, scores: NDArray[np.float32], labels: tuple[str, ...]) -> pa.Table:
    top = pa.array([labels[place] for place in scores.argmax(axis=1)])
    listed = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), len(labels))
    return (
        pa.Table.from_batches([rows]).drop_columns([name]).append_column("label", top).append_column("scores", listed)
    )


def _parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    return bytes(buffer.getvalue())
