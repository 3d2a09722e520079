"""Answers a whole folder, an Arrow file or any iterator, without observation: what is asked in bulk is no live traffic.

OUT/000000.npz, OUT/000001.npz, … hold the answers of so many inputs each, in order: "name", and every output with the
example first. A part is written whole or not at all, and a part that is there is not computed again: an interrupted run
goes on where it was. OUT/run.json says of which model the answers are; another model's are refused.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skerry_shared.errors import ConfigError, InputError, ModelError
from skerry_shared.files import claim, write_durably
from skerry_shared.ports.runtime import Model
from skerry_shared.release import ANY, Manifest, TensorSpec

Array = NDArray[Any]
Progress = Callable[[int], None]  # inputs that are answered so far

ARROW_FILE = b"ARROW1\0\0"  # before the stream in a file of Arrow's "file" format


class Item(NamedTuple):
    """One example. ``load`` gives its tensors, without the dimension of examples; it is not called twice."""

    name: str
    load: Callable[[], Mapping[str, Array]]


def answer(
    items: Iterable[Item], model: Model, manifest: Manifest, out: Path, progress: Progress, size: int = 32
) -> int:
    """Answer all items, ``size`` a run and a part; the number of them.

    Raises StateError if ``out`` holds another run's answers, InputError that names the item, ModelError.
    """
    claim(out, {"workload": manifest.workload, "release": manifest.release, "size": size})
    done, remaining = 0, iter(items)
    for part in iter(lambda: list(islice(remaining, size)), []):
        path = out / f"{done // size:06}.npz"
        if not path.exists():
            _write(path, [item.name for item in part], model, _stacked(part, manifest.inputs))
        done += len(part)
        progress(done)
    return done


def source(path: Path, manifest: Manifest) -> Iterator[Item]:
    """The items in a folder of .npy files, or in an Arrow IPC file or stream. Raises ConfigError, InputError."""
    if path.is_dir():
        return _folder(path, manifest.inputs)
    if path.is_file():
        return _arrow(path, manifest.inputs)
    raise ConfigError(f"{path}: no folder of .npy files and no Arrow file")


def _write(path: Path, names: list[str], model: Model, inputs: Mapping[str, Array]) -> None:
    outputs = model.run(inputs)
    if "name" in outputs:
        raise ModelError("an output is called 'name', which answers are filed by")
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, name=np.array(names), **outputs)
    write_durably(path, buffer.getvalue())


def _stacked(part: list[Item], specs: Iterable[TensorSpec]) -> dict[str, Array]:
    loaded = [(item.name, item.load()) for item in part]
    return {spec.name: np.stack([_fitting(name, tensors, spec) for name, tensors in loaded]) for spec in specs}


def _fitting(name: str, tensors: Mapping[str, Array], spec: TensorSpec) -> Array:
    array = tensors.get(spec.name)
    if array is None:
        raise InputError(f"{name}: no input {spec.name!r}")
    fits = len(array.shape) == len(spec.shape) - 1 and all(
        want in (ANY, found) for want, found in zip(spec.shape[1:], array.shape, strict=True)
    )
    if array.dtype.name != spec.dtype or not fits:
        wanted = f"{spec.dtype} {list(spec.shape[1:])}"
        raise InputError(f"{name}: input {spec.name!r} is {array.dtype} {list(array.shape)}, expected {wanted}")
    return array


def _folder(path: Path, specs: tuple[TensorSpec, ...]) -> Iterator[Item]:
    """One example a file, sorted by name; a model of several inputs needs an Arrow file."""
    if len(specs) != 1:
        raise InputError(f"{path}: the model takes {len(specs)} inputs; give them as columns of an Arrow file")
    return (Item(file.name, partial(_npy, specs[0].name, file)) for file in sorted(path.glob("*.npy")))


def _npy(name: str, file: Path) -> dict[str, Array]:
    try:
        array: Array = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{file.name}: not a .npy file: {error}") from None
    return {name: array}


def _arrow(path: Path, specs: tuple[TensorSpec, ...]) -> Iterator[Item]:
    """One example a row; a column an input, of raw bytes or of lists of numbers. Named by their row."""
    import nanoarrow as na

    row = 0
    try:
        with path.open("rb") as file:
            if file.read(len(ARROW_FILE)) != ARROW_FILE:
                file.seek(0)
            for batch in na.ArrayStream.from_readable(file):
                columns = _columns(batch, path, specs)
                for i in range(len(batch)):
                    yield Item(f"{row}", partial(_row, f"row {row}", columns, i, specs))
                    row += 1
    except (RuntimeError, ValueError) as error:  # NanoarrowException is a RuntimeError
        raise InputError(f"{path.name}: not an Arrow IPC file: {error}") from None


def _columns(batch: Any, path: Path, specs: tuple[TensorSpec, ...]) -> dict[str, list[Any]]:
    names = [field.name for field in batch.schema.fields]
    if missing := {spec.name for spec in specs} - set(names):
        raise InputError(f"{path.name}: no column {min(missing)!r}; it has {', '.join(names)}")
    return {spec.name: batch.child(names.index(spec.name)).to_pylist() for spec in specs}


def _row(name: str, columns: Mapping[str, list[Any]], i: int, specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    return {spec.name: _value(name, columns[spec.name][i], spec) for spec in specs}


def _value(name: str, value: Any, spec: TensorSpec) -> Array:
    shape = spec.shape[1:]
    try:
        flat = np.frombuffer(value, spec.dtype) if isinstance(value, bytes) else np.array(value, spec.dtype)
        return flat.reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{name}: input {spec.name!r} is no {spec.dtype} {list(shape)}: {error}") from None
