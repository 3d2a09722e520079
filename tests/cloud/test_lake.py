import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from skerry_cloud.ingest import delta
from skerry_cloud.ingest.lake import QUARANTINE, Lake, schema
from skerry_cloud.ingest.table import Table
from skerry_cloud.ingest.upkeep import Policy, compact
from skerry_shared.errors import NotFoundError, ReplayError
from skerry_shared.telemetry import TABLES


def labels(*names: str, counter: int = 1) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {"time": 1.0, "prediction_id": name, "label": "boot", "device": "d", "session": "00", "counter": counter,
         "row": row, "received": 2.0}
        for row, name in enumerate(names)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema("labels"))


def ids(lake: Lake) -> list[str]:
    return sorted(lake.scan("labels").column("prediction_id").to_pylist())


@pytest.mark.parametrize("table", [*TABLES, QUARANTINE])
def test_every_table_can_be_scanned_before_its_first_row_and_reads_back_its_schema(table: str, tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert lake.scan(table).schema == schema(table)
    lake.append(table, schema(table).empty_table(), {"d": 1})
    assert lake.scan(table).schema == schema(table)
    assert Lake(tmp_path).scan(table, columns=["device"]).column_names == ["device"]


def test_rows_can_be_chosen(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("labels", labels("p1", "p2"), {})
    lake.append("labels", labels("p3", counter=2), {})
    found = lake.scan("labels", columns=["prediction_id"], filter=pc.field("counter") == 2)
    assert found.to_pydict() == {"prediction_id": ["p3"]}


def test_a_watermark_that_does_not_rise_adds_nothing(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("labels", labels("p1"), {"d/1": 4, "d/2": 7})
    for version in (3, 4):
        with pytest.raises(ReplayError, match="up to 4"):
            lake.append("labels", labels("p2"), {"d/1": version})
    with pytest.raises(ReplayError):
        Lake(tmp_path).append("labels", labels("p2"), {"d/2": 7})
    lake.append("labels", labels("p3"), {"d/1": 5})
    assert ids(Lake(tmp_path)) == ["p1", "p3"]
    assert Lake(tmp_path).watermark("labels", "d/1") == 5
    assert lake.watermark("labels", "d/3") == lake.watermark("windows", "d/1") == 0


def test_a_second_writer_is_noticed(tmp_path: Path) -> None:
    first = Lake(tmp_path)
    first.append("labels", labels("p1"), {"d": 1})
    second = Lake(tmp_path)
    first.append("labels", labels("p2"), {"d": 2})
    with pytest.raises(ReplayError, match="up to 2"):
        second.append("labels", labels("p2"), {"d": 2})
    assert ids(Lake(tmp_path)) == ["p1", "p2"]


def test_rows_that_were_chosen_by_an_old_watermark_are_refused(tmp_path: Path) -> None:
    first = Lake(tmp_path)
    first.append("labels", labels("p1"), {"d": 1})
    second = Lake(tmp_path)
    first.append("labels", labels("p2"), {"d": 2})
    with pytest.raises(ReplayError, match="up to 2, not to be set from 1 to 3"):
        second.append("labels", labels("p2", "p3"), {"d": 3})
    second.append("labels", labels("p3"), {"d": 3})
    with pytest.raises(ReplayError, match="up to 3, not to be set from 1 to 4"):
        second.append("labels", labels("p2", "p3", "p4"), {"d": 4}, before={"d": 1})
    assert ids(Lake(tmp_path)) == ["p1", "p2", "p3"]


def test_news_is_what_others_brought_once(tmp_path: Path) -> None:
    first, second = Lake(tmp_path), Lake(tmp_path)
    assert first.news("labels").num_rows == 0
    second.append("labels", labels("p1"), {"d": 1})
    second.append("labels", labels("p2"), {"d": 2})
    first.append("labels", labels("mine"), {"e": 1})
    compact(second.table("labels"), Policy(), now=1e9)
    assert sorted(first.news("labels")["prediction_id"].to_pylist()) == ["p1", "p2"]
    assert first.news("labels").num_rows == 0
    assert second.news("labels")["prediction_id"].to_pylist() == ["mine"]
    assert Lake(tmp_path).news("labels").num_rows == 0
    assert ids(first) == ids(second) == ["mine", "p1", "p2"]


def test_several_newer_processes_widen_a_table(tmp_path: Path) -> None:
    Lake(tmp_path).append("labels", labels("p0"), {"d0": 1})
    added = ("colour", "colour", "shape", "")
    declared = [pa.schema([*schema("labels"), *([(name, pa.string())] if name else [])]) for name in added]
    tables = [Table(tmp_path / "labels", columns, "") for columns in declared]  # what one adds the others do not know
    for number, (table, name) in enumerate(zip(tables, added, strict=True), 1):
        rows = labels(f"p{number}")
        rows = rows.append_column(name, pa.array([f"v{number}"])) if name else rows
        table.append(rows, {f"d{number}": 1})
    found = Lake(tmp_path).scan("labels").sort_by("prediction_id")
    assert found["colour"].to_pylist() == [None, "v1", "v2", None, None]
    assert found["shape"].to_pylist() == [None, None, None, "v3", None]


def test_several_processes_create_write_and_checkpoint_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "EVERY", 3)
    lakes = [Lake(tmp_path) for _ in range(4)]  # what one knows the others do not

    def write(number: int) -> None:
        for version in range(1, 11):
            lakes[number].append("labels", labels(f"{number}/{version}"), {f"d{number}": version})

    with ThreadPoolExecutor(len(lakes)) as pool:
        list(pool.map(write, range(len(lakes))))
    assert ids(Lake(tmp_path)) == sorted(f"{number}/{version}" for number in range(4) for version in range(1, 11))
    assert all(Lake(tmp_path).watermark("labels", f"d{number}") == 10 for number in range(4))


@pytest.mark.parametrize("kept", [0, 1, 100, -2])
def test_a_commit_that_a_power_cut_broke_is_taken_back(kept: int, tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append("labels", labels("p1"), {"d": 1})
    lake.append("labels", labels("p2"), {"d": 2})
    last = max((tmp_path / "labels/_delta_log").glob("*.json"))
    last.write_bytes(last.read_bytes()[:kept])

    again = Lake(tmp_path)
    assert ids(again) == ["p1"]
    again.append("labels", labels("p2"), {"d": 2})  # the device sends it again
    assert ids(Lake(tmp_path)) == ["p1", "p2"]


def test_a_table_whose_creation_was_cut_is_created_again(tmp_path: Path) -> None:
    Lake(tmp_path).append("labels", labels("p1"), {"d": 1})
    for commit in (tmp_path / "labels/_delta_log").glob("*1.json"):
        commit.unlink()
    (tmp_path / "labels/_delta_log" / f"{0:020d}.json").write_bytes(b"")
    lake = Lake(tmp_path)
    lake.append("labels", labels("p1"), {"d": 1})
    assert ids(lake) == ["p1"]


def test_an_unknown_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no table 'gossip'"):
        Lake(tmp_path).scan("gossip")


def test_readers_see_whole_commits_while_a_writer_writes(tmp_path: Path) -> None:
    lake = Lake(tmp_path)

    def write() -> None:
        for counter in range(1, 20):
            lake.append("labels", labels("a", "b", counter=counter), {"d": counter})

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        assert lake.scan("labels").num_rows % 2 == 0
    writer.join()
    assert lake.scan("labels").num_rows == 38


def test_everything_is_synced_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    lake = Lake(tmp_path)
    monkeypatch.setattr(delta, "_sync", lambda path: synced.append(path.suffix))
    lake.append("labels", labels("p1"), {"d": 1})
    assert synced == [".json", ".parquet", ".json"]
