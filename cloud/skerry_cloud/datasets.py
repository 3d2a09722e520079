"""Numbered versions of a workload's data, each a folder that never changes once it is there.

    <folder>/<number>/data.parquet   a row an example: input (raw bytes), label, split, source, since
    <folder>/<number>/dataset.json   an ``Info``: digest of the data, counts, parent, what the split depends on

A child version is its parent plus new examples. Five rules keep evaluation honest:

1. What was put to the test, validation or train split stays there in every descendant.
2. Equal inputs are always in the same split, so nothing that was trained on is tested on.
3. A split depends on the contents and the seed only, not on order or time.
4. What a teacher labelled, and no person, is for training only; it is left out where the same input is anywhere else.
5. What was chosen for what a model said of it, and not drawn at random, is trained on only: it is not like all else.

Within a version, rows that its parent did not have are *recent*, the others are *reference*.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skerry_cloud.examples import Examples
from skerry_shared.config import decode
from skerry_shared.errors import DigestError, InputError, NotFoundError, StateError
from skerry_shared.files import sync_folder, write_durably

if TYPE_CHECKING:  # it loads torch, which reading a version does not need
    from skerry_cloud.workloads import Workload

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
REFERENCE, RECENT = "reference", "recent"
TEACHER = "teacher"  # begins the source of what a teacher labelled; a device's name follows
UNTOLD = -1  # the label of an example that has none yet


@dataclass(frozen=True)
class Shares:
    """Which part of new examples goes to validation and to test, of each label alike; the rest is for training."""

    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        if min(self.validation, self.test) <= 0 or self.validation + self.test >= 1:
            raise ValueError(f"shares of validation and test must be above 0 and below 1 together, got {self}")


MOST = 0.8  # of what was drawn at random is held out where more was chosen: some is to be learned from as it comes
FIELD = Shares(validation=0.1, test=0.3)  # few come back from devices, and a gate needs many to be sure


@dataclass(frozen=True)
class Info:
    """What ``dataset.json`` says. ``created`` in Unix seconds; ``labels`` counts per label name and split."""

    workload: str
    version: int
    parent: int
    created: float
    sha256: str
    seed: int
    shares: Shares
    dtype: str
    shape: tuple[int, ...]
    counts: dict[str, int]
    labels: dict[str, dict[str, int]]
    sources: dict[str, int]
    repeats: int  # new examples left out because the version has the same input with the same label


@dataclass(frozen=True)
class Rows:
    """Examples with their split, source, and the version that brought them; all of one length."""

    examples: Examples
    split: NDArray[np.str_]
    source: NDArray[np.str_]
    since: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.split)

    def take(self, rows: NDArray[Any] | slice) -> "Rows":
        """The rows at these places, or where this mask is true."""
        return Rows(self.examples.take(rows), self.split[rows], self.source[rows], self.since[rows])

    def of(self, split: str) -> "Rows":
        """The rows of one split."""
        return self.take(self.split == split)


@dataclass(frozen=True)
class DatasetVersion:
    """A version on disk."""

    folder: Path
    info: Info

    @property
    def returned(self) -> bool:
        """Are samples of devices in it?"""
        return self.info.parent > 0

    def read(self) -> Rows:
        """All rows. Raises DigestError if the file is not the one that was written."""
        content = (self.folder / "data.parquet").read_bytes()
        if hashlib.sha256(content).hexdigest() != self.info.sha256:
            raise DigestError(f"dataset {self.info.version}: data.parquet is not what dataset.json says")
        return _from_table(pq.read_table(pa.BufferReader(content)), self.info)

    def recent(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of this version's rows its parent did not have; none in a version without parent."""
        return np.equal(rows.since, self.info.version if self.info.parent else 0)


def create(
    folder: Path,
    workload: "Workload",
    examples: Examples,
    sources: Sequence[str],
    parent: DatasetVersion | None = None,
    *,
    chosen: NDArray[np.bool_] | None = None,
    created: float,
    shares: Shares | None = None,
    seed: int = 0,
) -> DatasetVersion:
    """Write the next version below ``folder``: the parent's rows and these, each with its source.

    ``chosen`` marks examples that were not drawn at random (None: all were). ``shares`` defaults to 10 + 10 % without a
    parent and to ``FIELD`` with one; a parent's seed is inherited. Raises InputError, naming the field, if the examples
    do not fit the workload; then nothing is written.
    """
    workload.validate(examples)
    if len(sources) != len(examples):
        raise InputError(f"{workload.name}: sources: {len(sources)} of them for {len(examples)} examples")
    seed = parent.info.seed if parent else seed
    shares = shares or (FIELD if parent else Shares())
    version = max(versions(folder), default=0) + 1
    chosen = np.zeros(len(examples), np.bool_) if chosen is None else chosen
    rows, repeats = _merge(parent.read() if parent else None, examples, sources, chosen, shares, seed, version)
    _check_complete(rows, workload.name)
    content = _to_parquet(rows)
    info = Info(
        workload=workload.name,
        version=version,
        parent=parent.info.version if parent else 0,
        created=created,
        sha256=hashlib.sha256(content).hexdigest(),
        seed=seed,
        shares=shares,
        dtype=workload.input.dtype,
        shape=workload.input.shape[1:],
        counts=_counts(rows.split),
        labels={name: _counts(rows.split[rows.examples.labels == label]) for label, name in enumerate(workload.labels)},
        sources=dict(Counter(rows.source.tolist())),
        repeats=repeats,
    )
    return _write(folder, info, content)


def open_version(folder: Path, number: int) -> DatasetVersion:
    """Version ``number``. Raises NotFoundError that lists those there are."""
    path = folder / str(number) / "dataset.json"
    if not path.is_file():
        known = ", ".join(map(str, versions(folder))) or "none"
        raise NotFoundError(f"dataset: no version {number} in {folder}; known: {known}")
    return DatasetVersion(path.parent, decode(Info, json.loads(path.read_text()), str(path)))


def versions(folder: Path) -> tuple[int, ...]:
    """The numbers of the versions below ``folder``, oldest first."""
    return tuple(sorted(int(path.name) for path in folder.glob("[0-9]*")))


def digests(inputs: NDArray[Any], seed: int) -> list[bytes]:
    """A name for the content of each input; sorted by it, inputs are in an arbitrary order that the seed decides."""
    key = seed.to_bytes(8, "big")
    return [hashlib.blake2b(row.tobytes(), key=key, digest_size=16).digest() for row in np.ascontiguousarray(inputs)]


def assign(
    names: Sequence[bytes], labels: Sequence[int], settled: Mapping[bytes, str], shares: Shares,
    chosen: Set[bytes] = frozenset(),
) -> dict[bytes, str]:  # fmt: skip
    """A split for each name: the settled one if it has one, training if it was ``chosen``, else by label alike.

    ``shares`` are of all new names, and come from those that were not chosen, ``MOST`` of them at most.
    """
    label_of: dict[bytes, int] = {}
    for name, label in zip(names, labels, strict=True):
        if name not in settled:  # equal inputs may carry different labels: any rule will do that ignores their order
            label_of[name] = min(label, label_of.get(name, label))
    strata = defaultdict(list)
    for name, label in sorted(label_of.items()):
        if name not in chosen:
            strata[label].append(name)
    splits = {name: settled.get(name, TRAIN) for name in names if name in settled or name in chosen}
    drawn = sum(map(len, strata.values()))
    more = max(1.0, min(len(label_of) / max(drawn, 1), MOST / (shares.test + shares.validation)))
    for stratum in strata.values():
        test = round(shares.test * more * len(stratum))
        validation = test + round(shares.validation * more * len(stratum))
        splits |= dict.fromkeys(stratum[:test], TEST)
        splits |= dict.fromkeys(stratum[test:validation], VALIDATION)
        splits |= dict.fromkeys(stratum[validation:], TRAIN)
    return splits


def _merge(
    old: Rows | None, examples: Examples, sources: Sequence[str], chosen: NDArray[np.bool_], shares: Shares, seed: int,
    version: int,
) -> tuple[Rows, int]:  # fmt: skip
    """The old rows and the new, without the repeats among these, and how many repeats there were."""
    old_names = digests(old.examples.inputs, seed) if old else []
    old_labels = old.examples.labels.tolist() if old else []
    names, labels = digests(examples.inputs, seed), examples.labels.tolist()
    settled = dict(zip(old_names, old.split.tolist(), strict=True)) if old else {}
    taught = [source.startswith(f"{TEACHER}:") for source in sources]
    at_random = {name for name, picked in zip(names, chosen, strict=True) if not picked}
    splits = _splits(names, labels, taught, settled, shares, set(names) - at_random)
    kept = np.flatnonzero(splits)
    keys = [(names[i], labels[i]) for i in kept]
    fresh = kept[_first_of_each(keys, set(zip(old_names, old_labels, strict=True)))]
    new = Rows(
        examples.take(fresh),
        np.array([splits[i] for i in fresh], dtype=np.str_),
        np.array([sources[i] for i in fresh], dtype=np.str_),
        np.full(len(fresh), version, dtype=np.int64),
    )
    return (_concatenate(old, new) if old else new), len(examples) - len(fresh)


def _splits(
    names: Sequence[bytes], labels: Sequence[int], taught: Sequence[bool], settled: Mapping[bytes, str], shares: Shares,
    chosen: Set[bytes],
) -> list[str]:  # fmt: skip
    """The split of each example; an empty one leaves it out."""
    told = [i for i, by_teacher in enumerate(taught) if not by_teacher]
    splits = assign([names[i] for i in told], [labels[i] for i in told], settled, shares, chosen)
    known = splits.keys() | settled.keys()
    free = {name: "" if name in known else TRAIN for name in names}
    return [free[name] if by_teacher else splits[name] for name, by_teacher in zip(names, taught, strict=True)]


def _first_of_each(keys: Sequence[tuple[bytes, int]], known: set[tuple[bytes, int]]) -> NDArray[np.int64]:
    seen, first = set(known), []
    for place, key in enumerate(keys):
        if key not in seen:
            seen.add(key)
            first.append(place)
    return np.array(first, dtype=np.int64)


def _concatenate(old: Rows, new: Rows) -> Rows:
    return Rows(
        Examples(
            np.concatenate([old.examples.inputs, new.examples.inputs]),
            np.concatenate([old.examples.labels, new.examples.labels]),
        ),
        np.concatenate([old.split, new.split]),
        np.concatenate([old.source, new.source]),
        np.concatenate([old.since, new.since]),
    )


def _check_complete(rows: Rows, workload: str) -> None:
    for split in SPLITS:
        if split not in rows.split:
            raise InputError(f"{workload}: inputs: {len(rows)} examples are too few, none is left for {split}")


def _counts(splits: NDArray[np.str_]) -> dict[str, int]:
    return {split: int((splits == split).sum()) for split in SPLITS}


def _to_parquet(rows: Rows) -> bytes:
    table = pa.table(
        {
            "input": pa.array([row.tobytes() for row in np.ascontiguousarray(rows.examples.inputs)], pa.binary()),
            "label": pa.array(rows.examples.labels, pa.int64()),
            "split": pa.array(rows.split.tolist(), pa.string()),
            "source": pa.array(rows.source.tolist(), pa.string()),
            "since": pa.array(rows.since, pa.int64()),
        }
    )
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def _from_table(table: pa.Table, info: Info) -> Rows:
    raw = b"".join(table["input"].to_pylist())
    inputs = np.frombuffer(raw, dtype=info.dtype).reshape(-1, *info.shape)
    return Rows(
        Examples(inputs, table["label"].to_numpy().astype(np.int64)),
        np.array(table["split"].to_pylist(), dtype=np.str_),
        np.array(table["source"].to_pylist(), dtype=np.str_),
        table["since"].to_numpy().astype(np.int64),
    )


def _write(folder: Path, info: Info, content: bytes) -> DatasetVersion:
    """Both files in a folder under another name, then its rename: the version is there whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / str(info.version)
    unfinished = folder / f".{info.version}.{os.getpid()}.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    write_durably(unfinished / "data.parquet", content)
    write_durably(unfinished / "dataset.json", json.dumps(dataclasses.asdict(info), indent=1).encode())
    try:
        unfinished.rename(path)
    except OSError:
        shutil.rmtree(unfinished)
        raise StateError(
            f"dataset: version {info.version} was written by another at the same time; try again"
        ) from None
    sync_folder(folder)
    return DatasetVersion(path, info)
