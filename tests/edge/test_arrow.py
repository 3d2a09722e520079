import contextlib
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_edge.observe import arrow
from skerry_shared import telemetry
from skerry_shared.errors import InputError
from skerry_shared.telemetry import TABLES, ColumnType

PYARROW: dict[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "binary": pa.binary(),
    "list<int64>": pa.list_(pa.int64()),
}
INT64 = st.integers(-(2**63), 2**63 - 1)
VALUES: dict[ColumnType, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=20),
    "int64": INT64,
    "float64": st.floats(allow_nan=False),
    "binary": st.binary(max_size=20),
    "list<int64>": st.lists(INT64, max_size=5),
}


def rows_of(table: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.lists(st.fixed_dictionaries({name: VALUES[kind] for name, kind in TABLES[table].items()}), max_size=8)


@pytest.mark.parametrize("table", TABLES)
@given(data=st.data())
def test_pyarrow_and_decode_read_what_was_encoded(table: str, data: st.DataObject) -> None:
    rows = data.draw(rows_of(table))
    columns = {name: [row[name] for row in rows] for name in TABLES[table]}

    stream = arrow.encode(table, columns)

    read = pa.ipc.open_stream(stream).read_all()
    assert read.schema == pa.schema([(name, PYARROW[kind]) for name, kind in TABLES[table].items()])
    read.validate(full=True)
    assert read.to_pydict() == columns
    assert arrow.decode(table, stream) == columns


LABELS: dict[str, Any] = {"time": [1.0], "prediction_id": ["p"], "label": ["boot"]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"time": []}, "differ in length"),
        ({"time": ["noon"]}, "labels.time"),
        ({"label": [7]}, "labels.label"),
        ({"label": [None]}, "labels.label"),
        ({"colour": ["red"]}, "has columns"),
    ],
)
def test_a_wrong_column_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        arrow.encode("labels", LABELS | change)


def test_a_fraction_is_no_integer() -> None:
    events = {name: ["x"] if kind == "string" else [1] for name, kind in TABLES["events"].items()}
    arrow.encode("events", events)
    with pytest.raises(InputError, match=r"events\.release"):
        arrow.encode("events", events | {"release": [1.5]})


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(InputError, match="no 'gossip'"):
        arrow.encode("gossip", {})


def test_decode_refuses_another_table_and_nulls() -> None:
    stream = arrow.encode("labels", LABELS)
    with pytest.raises(InputError, match="has columns"):
        arrow.decode("events", stream)
    nulls = pa.table({"time": [1.0], "prediction_id": ["p"], "label": pa.array([None], pa.string())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, nulls.schema) as writer:
        writer.write_table(nulls)
    with pytest.raises(InputError, match=r"labels\.label: a value is null"):
        arrow.decode("labels", sink.getvalue().to_pybytes())


@given(cut=st.integers(0, 400), flip=st.integers(0, 399), value=st.integers(0, 255))
def test_damaged_bytes_never_escape_the_error_tree(cut: int, flip: int, value: int) -> None:
    """A batch's checksum is what keeps them from nanoarrow 0.9, which some damaged streams bring down."""
    damaged = bytearray(telemetry.pack(arrow.encode("labels", LABELS)))
    damaged[flip % len(damaged)] = value
    with contextlib.suppress(InputError):
        arrow.decode("labels", telemetry.unpack(bytes(damaged[:cut])))


def test_the_edge_does_not_need_pyarrow() -> None:
    check = "import sys, skerry_edge.observe.arrow; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
