import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_cloud import datasets, workloads
from skerry_cloud.datasets import (
    FIELD,
    MOST,
    RECENT,
    REFERENCE,
    SPLITS,
    TEST,
    TRAIN,
    DatasetVersion,
    Shares,
    assign,
    digests,
)
from skerry_cloud.workloads import Examples, Workload
from skerry_shared.errors import ConfigError, DigestError, InputError, NotFoundError

HERE = Path(__file__).parent

names = st.binary(min_size=1, max_size=2)
labelled = st.lists(st.tuples(names, st.integers(0, 2)), max_size=60)


@pytest.fixture
def tiny() -> Workload:
    return workloads.load("tiny.py:Tiny", HERE)


def first(folder: Path, tiny: Workload) -> DatasetVersion:
    examples = tiny.examples()
    return datasets.create(folder, tiny, examples, [REFERENCE] * len(examples), created=1.0)


def field(tiny: Workload, count: int = 40) -> Examples:
    return Examples(255 - tiny.examples().inputs[:count], tiny.examples().labels[:count])


@given(labelled, st.randoms(use_true_random=False))
def test_a_split_does_not_depend_on_order(pairs: list[tuple[bytes, int]], shuffle: random.Random) -> None:
    shuffled = shuffle.sample(pairs, len(pairs))
    assert _assign(pairs) == _assign(shuffled)


@given(labelled, labelled)
def test_what_was_settled_stays_and_everything_gets_one_split(
    old: list[tuple[bytes, int]], new: list[tuple[bytes, int]]
) -> None:
    settled = _assign(old)
    splits = assign(*_columns(new), settled, FIELD)
    assert set(splits) == {name for name, _ in new}
    assert all(split in SPLITS for split in splits.values())
    assert all(splits[name] == settled[name] for name in splits if name in settled)


@given(st.integers(0, 300), st.sampled_from([Shares(), FIELD]))
def test_each_label_is_split_by_the_same_shares(count: int, shares: Shares) -> None:
    keys = [f"{i:04}".encode() for i in range(count)]
    counts = Counter(assign(keys, [1] * count, {}, shares).values())
    assert abs(counts[TEST] - shares.test * count) <= 0.5
    assert abs(counts["validation"] - shares.validation * count) <= 0.5


@given(labelled, labelled, st.data())
def test_what_was_chosen_is_trained_on_unless_it_was_held_out_before(
    old: list[tuple[bytes, int]], new: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    settled, names = _assign(old), sorted({name for name, _ in new})
    chosen = data.draw(st.sets(st.sampled_from(names))) if names else set()
    splits = assign(*_columns(new), settled, FIELD, chosen)
    assert all(splits[name] == settled.get(name, TRAIN) for name in chosen)


@given(st.integers(0, 300), st.data())
def test_what_is_held_out_is_a_share_of_all_as_far_as_enough_was_not_chosen(count: int, data: st.DataObject) -> None:
    keys, drawn = [f"{i:04}".encode() for i in range(count)], data.draw(st.integers(0, count))
    counts = Counter(assign(keys, [1] * count, {}, FIELD, set(keys[drawn:])).values())
    most = MOST / (FIELD.test + FIELD.validation)
    assert abs(counts[TEST] - min(FIELD.test * count, FIELD.test * most * drawn)) <= 0.5
    assert counts[TEST] + counts["validation"] <= MOST * drawn + 1


def test_the_seed_decides_who_is_tested() -> None:
    inputs = np.arange(100, dtype=np.uint8).reshape(-1, 1)
    assert sorted(range(100), key=digests(inputs, 0).__getitem__) != sorted(
        range(100), key=digests(inputs, 1).__getitem__
    )
    assert digests(inputs, 5) == digests(inputs, 5)


def test_a_version_holds_every_example_once(tmp_path: Path, tiny: Workload) -> None:
    version = first(tmp_path, tiny)
    rows = version.read()
    examples = tiny.examples()
    assert sorted(map(_key, rows.examples.inputs)) == sorted(map(_key, examples.inputs))
    assert np.array_equal(rows.examples.labels, examples.labels)
    assert version.info.counts == {"train": 320, "validation": 40, "test": 40}
    assert version.info.labels["left"]["test"] + version.info.labels["right"]["test"] == 40
    assert not version.recent(rows).any()


def test_the_same_data_give_the_same_bytes(tmp_path: Path, tiny: Workload) -> None:
    assert first(tmp_path / "a", tiny).info == first(tmp_path / "b", tiny).info


def test_versions_are_numbered_and_open_as_they_were_written(tmp_path: Path, tiny: Workload) -> None:
    one, two = first(tmp_path, tiny), first(tmp_path, tiny)
    assert datasets.versions(tmp_path) == (1, 2)
    assert datasets.open_version(tmp_path, 1) == one
    assert datasets.open_version(tmp_path, 2) == two
    with pytest.raises(NotFoundError, match=r"no version 3 .* known: 1, 2"):
        datasets.open_version(tmp_path, 3)


def test_a_child_keeps_its_parents_rows_and_splits_what_is_recent(tmp_path: Path, tiny: Workload) -> None:
    parent = first(tmp_path, tiny)
    child = datasets.create(tmp_path, tiny, field(tiny), ["device:edge-1"] * 40, parent, created=2.0)
    old, rows = parent.read(), child.read()
    recent = child.recent(rows)
    assert np.array_equal(rows.split[~recent], old.split)
    assert recent.sum() == 40
    assert set(rows.source[recent]) == {"device:edge-1"}
    assert Counter(rows.split[recent].tolist()) == {"train": 24, "test": 12, "validation": 4}
    assert (child.info.parent, child.info.version) == (1, 2)
    assert child.info.sources == {REFERENCE: 400, "device:edge-1": 40}


def test_nothing_that_was_chosen_is_tested_on(tmp_path: Path, tiny: Workload) -> None:
    chosen, examples = np.arange(40) % 2 == 0, field(tiny)
    child = datasets.create(
        tmp_path, tiny, examples, ["device:a"] * 40, first(tmp_path, tiny), chosen=chosen, created=2.0
    )
    rows = child.read().take(child.recent(child.read()))
    assert Counter(rows.split.tolist()) == {"train": 24, "test": 12, "validation": 4}
    tested = {image.tobytes() for image in rows.of(TEST).examples.inputs}
    assert tested <= {image.tobytes() for image in examples.inputs[~chosen]}


def test_in_a_grandchild_the_childs_rows_are_reference(tmp_path: Path, tiny: Workload) -> None:
    child = datasets.create(tmp_path, tiny, field(tiny), ["device:a"] * 40, first(tmp_path, tiny), created=2.0)
    more = Examples(field(tiny).inputs // 2, field(tiny).labels)
    grandchild = datasets.create(tmp_path, tiny, more, ["device:b"] * 40, child, created=3.0)
    rows = grandchild.read()
    assert set(rows.source[grandchild.recent(rows)]) == {"device:b"}


def test_a_test_picture_seen_again_in_the_field_is_not_trained_on(tmp_path: Path, tiny: Workload) -> None:
    parent = first(tmp_path, tiny)
    tested = parent.read().of(TEST).examples
    mislabelled = Examples(tested.inputs, 1 - tested.labels)
    child = datasets.create(tmp_path, tiny, mislabelled, ["device:a"] * len(tested), parent, created=2.0)
    rows = child.read()
    assert set(rows.split[child.recent(rows)]) == {TEST}


def test_what_a_teacher_labelled_is_only_trained_on(tmp_path: Path, tiny: Workload) -> None:
    parent = first(tmp_path, tiny)
    told, tested = field(tiny), parent.read().of(TEST).examples.take(slice(5))
    new = Examples(np.random.default_rng(1).integers(0, 255, (30, 4, 4), dtype=np.uint8), np.zeros(30, np.int64))
    parts = [(new, "teacher:a"), (told, "device:a"), (told.take(slice(10)), "teacher:a"), (tested, "teacher:a")]
    examples = Examples(
        np.concatenate([part.inputs for part, _ in parts]), np.concatenate([part.labels for part, _ in parts])
    )
    sources = [source for part, source in parts for _ in range(len(part))]
    child = datasets.create(tmp_path, tiny, examples, sources, parent, created=2.0)
    rows = child.read()
    taught = rows.source == "teacher:a"
    assert np.array_equal(rows.examples.inputs[taught], new.inputs)
    assert set(rows.split[taught]) == {"train"} and child.info.repeats == 15
    assert Counter(rows.split[rows.source == "device:a"].tolist()) == {"train": 24, "test": 12, "validation": 4}


def test_repeats_are_left_out_and_counted(tmp_path: Path, tiny: Workload) -> None:
    parent = first(tmp_path, tiny)
    known, twice = tiny.examples().take(slice(5)), field(tiny).take(np.array([0, 0, 1]))
    examples = Examples(np.concatenate([known.inputs, twice.inputs]), np.concatenate([known.labels, twice.labels]))
    child = datasets.create(tmp_path, tiny, examples, ["device:a"] * 8, parent, created=2.0)
    assert child.info.repeats == 6
    assert len(child.read()) == 402


def test_no_input_is_in_two_splits(tmp_path: Path, tiny: Workload) -> None:
    child = datasets.create(tmp_path, tiny, field(tiny), ["device:a"] * 40, first(tmp_path, tiny), created=2.0)
    rows = child.read()
    split_of: dict[bytes, set[str]] = {}
    for picture, split in zip(rows.examples.inputs, rows.split, strict=True):
        split_of.setdefault(_key(picture), set()).add(split)
    assert all(len(splits) == 1 for splits in split_of.values())


def test_damage_is_noticed(tmp_path: Path, tiny: Workload) -> None:
    version = first(tmp_path, tiny)
    file = version.folder / "data.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(DigestError, match=r"data\.parquet is not what"):
        version.read()


def test_a_description_with_an_unknown_key_is_refused(tmp_path: Path, tiny: Workload) -> None:
    file = first(tmp_path, tiny).folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"owner": "me"}))
    with pytest.raises(ConfigError, match="unknown key 'owner'"):
        datasets.open_version(tmp_path, 1)


@pytest.mark.parametrize(
    ("count", "sources", "message"), [(2, 2, "too few, none is left for"), (40, 39, "sources: 39 of them for 40")]
)
def test_what_cannot_be_split_changes_nothing(
    tmp_path: Path, tiny: Workload, count: int, sources: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        datasets.create(tmp_path, tiny, tiny.examples().take(slice(count)), [RECENT] * sources, created=1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shares", [(0.0, 0.1), (0.1, 0.0), (0.5, 0.5)])
def test_shares_leave_something_for_each_split(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="shares of validation and test"):
        Shares(*shares)


def _assign(pairs: list[tuple[bytes, int]]) -> dict[bytes, str]:
    return assign(*_columns(pairs), {}, FIELD)


def _columns(pairs: list[tuple[bytes, int]]) -> tuple[list[bytes], list[int]]:
    return [name for name, _ in pairs], [label for _, label in pairs]


def _key(picture: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> bytes:
    return picture.tobytes()
