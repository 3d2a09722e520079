"""What may be kept: dropped values are gone, pseudonyms tell nothing without the key, and a bad policy is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from skerry_shared import privacy
from skerry_shared.privacy import drop, fault, generalise, keep, mask, pseudonym, treat
from skerry_shared.release import ANY, Field, TensorSpec

pytestmark = pytest.mark.arm64

KEY, OTHER = bytes(range(32)), bytes(32)
NUMBERS = ("uint8", "int16", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64")

dtypes = st.sampled_from([np.dtype(name) for name in NUMBERS])
keys = st.binary(min_size=32, max_size=32)
bounds = st.none() | st.integers(0, 100).map(float)
coarse = st.builds(generalise, st.just("x"), st.integers(0, 100).map(float), bounds, bounds)


def values_of(dtype: Any, width: int = 1) -> st.SearchStrategy[NDArray[Any]]:
    return hnp.arrays(dtype, st.tuples(st.integers(0, 20), st.just(width)))


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


policies = st.tuples(st.just(keep("a")), st.sampled_from([drop("b"), mask("b", 7), pseudonym("b")]), coarse)


@given(dtypes.flatmap(lambda dtype: values_of(dtype, 3)), policies)
def test_twice_is_once_and_shape_and_dtype_stay(inputs: NDArray[Any], fields: tuple[Field, ...]) -> None:
    spec = TensorSpec("t", inputs.dtype.name, (ANY, 3))
    assume(not fault(fields, spec))
    before = inputs.copy()
    once = treat(inputs, fields)
    assert once.shape == inputs.shape and same(treat(once, fields), once)
    assert same(once[:, 0], inputs[:, 0]) and same(inputs, before)


@given(dtypes.flatmap(lambda dtype: st.tuples(values_of(dtype, 2), values_of(dtype, 2))), keys)
def test_what_is_dropped_or_masked_cannot_be_told_from_anything_else(
    both: tuple[NDArray[Any], NDArray[Any]], key: bytes
) -> None:
    rows = min(map(len, both))
    one, other = (treat(inputs[:rows], [drop("a"), mask("b", 3)], key) for inputs in both)
    assert one.tobytes() == other.tobytes()


@given(st.sampled_from(sorted(privacy.BITS)).flatmap(lambda name: values_of(np.dtype(name))), keys)
def test_pseudonyms_are_equal_where_values_are_and_keep_nothing_else(inputs: NDArray[Any], key: bytes) -> None:
    repeated = np.concatenate([inputs, inputs[::-1]])
    found = treat(repeated, [pseudonym("patient")], key)
    assert found.dtype == inputs.dtype and same(found, found[::-1])
    assert same(found[: len(inputs)], treat(inputs, [pseudonym("patient")], key))  # whatever comes in the same batch
    assert (found >= 0).all() and same(found, np.round(found))


def test_pseudonyms_differ_by_value_key_field_and_workload() -> None:
    people = np.arange(1000, dtype=np.int64)[:, np.newaxis]
    found = treat(people, [pseudonym("patient")], KEY)
    assert len(np.unique(found)) == 1000
    for fields, key in (
        ([pseudonym("patient")], OTHER),
        ([pseudonym("doctor")], KEY),
        ([pseudonym("patient")], privacy.workload_key(KEY, "cells")),
    ):
        assert not np.isin(treat(people, fields, key), found).any()
    assert not treat(people, [pseudonym("patient")]).any()  # without a key: dropped
    assert privacy.workload_key(KEY, "cells") != privacy.workload_key(KEY, "tiny")


def test_zero_and_its_negative_are_one_person() -> None:
    found = treat(np.array([[0.0], [-0.0]], np.float32), [pseudonym("x")], KEY)
    assert found[0] == found[1]


def test_pseudonyms_of_texts() -> None:
    told = privacy.pseudonym_of("Ada Lovelace", "label", KEY)
    assert len(told) == 32 and told == privacy.pseudonym_of("Ada Lovelace", "label", KEY)
    others = [("Ada Lovelace", "label", OTHER), ("Ada Lovelace", "id", KEY), ("Ada", "label", KEY)]
    assert told not in [privacy.pseudonym_of(*other) for other in others]


@pytest.mark.parametrize(
    ("dtype", "values", "field", "kept"),
    [
        ("float32", [31.4, 17.0, 99.0, np.nan], generalise("age", 10, 20, 90), [30.0, 20.0, 90.0, np.nan]),
        ("float32", [31.4, 17.0, np.inf], generalise("age", low=20, high=90), [31.4, 20.0, 90.0]),
        ("uint8", [3, 252, 255], generalise("grey", 100), [0, 255, 255]),
        ("int64", [2**62, -(2**63), -7, 7], generalise("x", low=-9, high=5), [5, -9, -7, 5]),
        ("uint64", [2**64 - 1, 7], generalise("x", 10, high=privacy.EXACT - 10), [privacy.EXACT // 10 * 10 - 10, 10]),
    ],
)
def test_generalised(dtype: str, values: list[float], field: Field, kept: list[float]) -> None:
    inputs = np.array(values, dtype)[:, np.newaxis]
    np.testing.assert_array_equal(treat(inputs, [field])[:, 0], np.array(kept, dtype))


def test_a_picture_is_one_field() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    assert treat(pictures, ()) is pictures and treat(pictures, [keep("picture")]) is pictures
    assert (treat(pictures, [mask("picture", 9)]) == 9).all()
    assert set(np.unique(treat(pictures, [generalise("picture", 128)]))) == {0, 128, 255}


ROW, PICTURE = TensorSpec("row", "float32", (ANY, 2)), TensorSpec("picture", "uint8", (ANY, 4, 4))


@pytest.mark.parametrize(
    ("fields", "spec", "why"),
    [
        ((keep("a"), keep("b"), keep("c")), ROW, "3 of them; input 'row' has 2 values in a row: one for each, or one"),
        ((keep("a"), drop("a")), ROW, "field 'a': is there twice"),
        ((keep("a"), Field("b", "forget")), ROW, "field 'b': action 'forget' is unknown; known: keep, drop"),
        ((pseudonym("picture"),), PICTURE, "field 'picture': uint8 has no room for a pseudonym; choose drop or mask"),
        ((mask("picture", 0.5),), PICTURE, "uint8 needs whole numbers"),
        ((mask("picture", 300),), PICTURE, "field 'picture': mask: 300 is no uint8"),
        ((keep("a"), mask("b", float("nan"))), ROW, "field 'b': mask by .* needs finite numbers"),
        ((keep("a"), generalise("b")), ROW, "field 'b': generalise: .* needs a step above 0, or a range, or both"),
        ((keep("a"), generalise("b", 1, 5, 4)), ROW, "from 5 to 4"),
        ((generalise("x", 1),), TensorSpec("x", "int64", (ANY,)), "field 'x': generalise: from -inf to inf; int64"),
        ((generalise("x", low=0, high=2.0**60),), TensorSpec("x", "uint64", (ANY,)), "no value is beyond ±2⁵³"),
        ((generalise("x", 1),), TensorSpec("x", "bool", (ANY,)), "field 'x': generalise: bool is no number"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(fields: tuple[Field, ...], spec: TensorSpec, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(fault(fields, spec))
    assert fault((), spec) == ""


def test_who_is_hidden() -> None:
    fields = [keep("a"), drop("b"), mask("c", 1), generalise("d", 1), pseudonym("e")]
    assert privacy.hidden(fields) == ("b", "c", "e")
    assert [privacy.told(field) for field in fields] == [
        "keep",
        "drop",
        "mask by 1",
        "generalise in steps of 1",
        "hash",
    ]
    assert privacy.told(generalise("age", 10, 20, 90)) == "generalise from 20 to 90 in steps of 10"
