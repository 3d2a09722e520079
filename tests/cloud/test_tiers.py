"""A table's tiers: what moves is seen once, whoever dies on the way."""

import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from skerry_cloud.ingest import delta, upkeep
from skerry_cloud.ingest.delta import DataFile, Delta
from skerry_cloud.ingest.lake import Lake, schema
from skerry_cloud.ingest.table import COLD, Files, Table
from skerry_cloud.ingest.upkeep import DAY, Policy, plan, tend
from skerry_shared.errors import ConfigError

NOON = 1_780_000_000 // DAY * DAY + DAY / 2
WEEK = Policy(hot_days=3, keep_days=9, vacuum_hours=0)


def labels(counter: int, received: float) -> pa.Table:
    row: dict[str, Any] = {
        "time": received, "prediction_id": str(counter), "label": "boot", "device": "d", "session": "00",
        "counter": counter, "row": 0, "received": received,
    }  # fmt: skip
    return pa.Table.from_pylist([row], schema=schema("labels"))


def counters(lake: Lake) -> list[int]:
    return sorted(lake.scan("labels").column("counter").to_pylist())


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Where an S3 answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from moto.server import main; main()", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        while "Running on" not in server.stderr.readline():
            assert server.poll() is None
        threading.Thread(target=server.stderr.read, daemon=True).start()  # else it would wait for a reader
        yield f"http://127.0.0.1:{port}"
        server.kill()


@pytest.fixture(params=["folder", "s3"])
def cold(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "cold")
    url, bucket = request.getfixturevalue("s3"), uuid.uuid4().hex
    for name, value in {
        "ENDPOINT_URL": url, "ALLOW_HTTP": "true", "CONDITIONAL_PUT": "etag", "REGION": "us-east-1",
        "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    urllib.request.urlopen(urllib.request.Request(f"{url}/{bucket}", method="PUT")).close()
    return f"s3://{bucket}/cold"


def filled(folder: Path, cold: str, days: int = 6, each: int = 3) -> Lake:
    """A lake with some commits on each of so many days up to noon."""
    lake = Lake(folder / "lake", cold)
    for counter in range(days * each):
        received = NOON - (days - 1 - counter // each) * DAY + counter % each
        lake.append("labels", labels(counter, received), {"d/00": counter + 1})
    return lake


def test_small_files_of_a_day_become_one_and_nothing_is_lost(tmp_path: Path, cold: str) -> None:
    lake = filled(tmp_path, cold, days=3)
    upkeep.compact(lake.table("labels"), WEEK, NOON)
    files = lake.table("labels").files().hot
    assert sorted(file.rows for file in files) == [1, 1, 1, 3, 3]  # today's wait for more
    assert counters(lake) == counters(Lake(tmp_path / "lake", cold)) == list(range(9))


def test_old_rows_move_and_older_ones_go(tmp_path: Path, cold: str) -> None:
    lake = filled(tmp_path, cold, days=12, each=1)
    done = tend(lake.table("labels"), WEEK, NOON)
    assert (done.moved_rows, done.deleted_rows) == (6, 2)
    assert counters(lake) == counters(Lake(tmp_path / "lake", cold)) == list(range(2, 12))
    assert min(file.path for file in lake.table("labels").files().cold).startswith("day=2026-05-19/")
    assert tend(lake.table("labels"), WEEK, NOON).moved_rows == 0
    assert tend(lake.table("labels"), WEEK, NOON + DAY).deleted_rows == 1  # from the cold tier
    assert counters(lake) == counters(Lake(tmp_path / "lake", cold)) == list(range(3, 12))


def test_late_rows_are_found_by_their_own_time_and_move_by_their_reception(tmp_path: Path, cold: str) -> None:
    lake = filled(tmp_path, cold, days=6, each=1)
    tend(lake.table("labels"), WEEK, NOON)
    late = labels(6, NOON).set_column(0, "time", pa.array([NOON - 4.5 * DAY]))
    lake.append("labels", late, {"d/00": 7})
    tend(lake.table("labels"), WEEK, NOON)
    asked = pc.field("time") < NOON - 4 * DAY
    assert 6 in lake.scan("labels", ["counter"], asked)["counter"].to_pylist()
    tend(lake.table("labels"), WEEK, NOON + 3.5 * DAY)
    assert lake.table("labels").files().hot == ()
    assert counters(Lake(tmp_path / "lake", cold)) == list(range(7))


def test_a_dry_run_changes_nothing(tmp_path: Path, cold: str) -> None:
    lake = filled(tmp_path, cold)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    done = tend(lake.table("labels"), WEEK, NOON, dry_run=True)
    assert done.moved_rows and done.compacted_files
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_whoever_dies_at_any_step_leaves_every_row_once(
    tmp_path: Path, cold: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends at its k-th write that must be durable, for every k, and another one goes on."""
    filled(tmp_path, cold, days=11, each=1)
    sync, steps, now = delta._sync, 0, NOON
    while True:
        monkeypatch.setattr(delta, "_sync", dying(sync, steps))
        try:
            lake = Lake(tmp_path / "lake", cold)
            tend(lake.table("labels"), WEEK, now)
            break
        except KeyboardInterrupt:
            steps += 1
            monkeypatch.setattr(delta, "_sync", sync)
            found = counters(Lake(tmp_path / "lake", cold))
            assert found in (list(range(11)), list(range(1, 11))), f"at step {steps}"
    assert steps > 1
    assert counters(Lake(tmp_path / "lake", cold)) == list(range(1, 11))


def dying(sync: Callable[[Path], None], steps: int) -> Callable[[Path], None]:
    left = steps

    def die_or_sync(path: Path) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        sync(path)

    return die_or_sync


def test_a_move_that_was_cut_is_not_seen_and_is_made_again(
    tmp_path: Path, cold: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = filled(tmp_path, cold)
    with monkeypatch.context() as cut:
        cut.setattr(Table, "_switch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tend(lake.table("labels"), WEEK, NOON)
    assert DeltaTable(f"{cold}/labels").to_pyarrow_dataset().count_rows() > 0
    again = Lake(tmp_path / "lake", cold)
    assert again.watermark("labels", COLD) == 0
    assert counters(again) == list(range(18))
    tend(again.table("labels"), WEEK, NOON)
    assert counters(again) == counters(Lake(tmp_path / "lake", cold)) == list(range(18))


def test_another_lakes_cold_tier_is_left_alone(tmp_path: Path, cold: str) -> None:
    filled(tmp_path, cold)
    tend(Lake(tmp_path / "lake", cold).table("labels"), WEEK, NOON)
    other = filled(tmp_path / "other", cold)
    with pytest.raises(ConfigError, match="belongs to another lake"):
        tend(other.table("labels"), WEEK, NOON)
    assert counters(Lake(tmp_path / "lake", cold)) == list(range(18))


@pytest.mark.parametrize("elsewhere", ["", "/nowhere"])
def test_a_cold_tier_cannot_be_forgotten(elsewhere: str, tmp_path: Path, cold: str) -> None:
    tend(filled(tmp_path, cold).table("labels"), WEEK, NOON)
    with pytest.raises(ConfigError, match=r"lake\.cold: .*moved"):
        Lake(tmp_path / "lake", elsewhere)


def test_a_newer_cloud_adds_columns_and_an_older_one_leaves_them(tmp_path: Path, cold: str) -> None:
    lake = filled(tmp_path, cold, days=6, each=1)
    tend(lake.table("labels"), WEEK, NOON)
    wider = schema("labels").append(pa.field("battery", pa.float64()))
    newer = Table(tmp_path / "lake/labels", wider, f"{cold}/labels")
    assert newer.dataset().to_table()["battery"].to_pylist() == [None] * 6
    newer.append(labels(6, NOON).append_column("battery", pa.array([0.5])), {"d/00": 7})
    older = Lake(tmp_path / "lake", cold)
    older.append("labels", labels(7, NOON), {"d/00": 8})
    tend(older.table("labels"), WEEK, NOON + 3.5 * DAY)  # they move as well
    found = Lake(tmp_path / "lake", cold).scan("labels").sort_by("counter")
    assert found["battery"].to_pylist()[-3:] == [None, 0.5, None]
    assert found.schema == wider.set(len(wider) - 1, found.schema.field("battery"))


def test_opening_a_lake_reads_what_came_since_the_last_checkpoint(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for counter in range(3 * delta.EVERY):
        lake.append("labels", labels(counter, time.time()), {f"d/{counter % 50}": counter + 1})
    assert len(delta._needed(tmp_path / "labels" / delta.LOG)) <= delta.EVERY + 2
    again = Lake(tmp_path)
    for session in range(50):
        assert again.watermark("labels", f"d/{session}") == max(
            counter + 1 for counter in range(3 * delta.EVERY) if counter % 50 == session
        )


def test_a_checkpoint_is_whole_before_it_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the power goes, all that was not synced may be torn, wherever it has got to."""
    lake, log = Lake(tmp_path), tmp_path / "labels" / delta.LOG
    seen: list[bool] = []

    def watch(path: Path) -> None:
        if path.name.endswith(".checkpoint.parquet"):
            seen.append((log / path.name).exists())

    monkeypatch.setattr(delta, "_sync", watch)
    for counter in range(delta.EVERY):
        lake.append("labels", labels(counter, time.time()), {})
    assert seen == [False] and list(log.glob("*.checkpoint.parquet"))


def test_files_that_nobody_knows_are_vacuumed(tmp_path: Path, cold: str) -> None:
    lake = filled(tmp_path, cold, days=2)
    (tmp_path / "lake/labels/torn.parquet").write_bytes(b"")
    assert tend(lake.table("labels"), WEEK, NOON).vacuumed_files == 4  # and the three that became one
    assert counters(Lake(tmp_path / "lake", cold)) == list(range(6))


def test_two_writers_take_turns(tmp_path: Path) -> None:
    first = Lake(tmp_path)
    first.append("labels", labels(1, NOON), {"d/00": 1})
    second = Lake(tmp_path)
    for counter in range(2, 8, 2):
        first.append("labels", labels(counter, NOON), {"d/00": counter})
        second.append("labels", labels(counter + 1, NOON), {"e/00": counter})
    assert counters(Lake(tmp_path)) == [*range(1, 8)]


def file(last: float, size: int = 1000) -> DataFile:
    return DataFile(f"{last}", size, 1, last)


def test_big_files_of_today_are_compacted_with_their_like_only() -> None:
    few = [file(NOON + i, 1000) for i in range(15)]
    many = [file(NOON + 100 + i, 1 << 20) for i in range(16)]
    todo = plan(Files((*few, *many), ()), Policy(), "labels", NOON)
    assert todo.compact == (tuple(many),) and not todo.move
    assert plan(Files((*few, *many[1:]), ()), Policy(), "labels", NOON).compact == ()


def test_a_table_may_have_a_retention_of_its_own() -> None:
    policy, files = Policy(keep_days=30, keep={"samples": 7}), Files((file(NOON - 10 * DAY),), ())
    assert plan(files, policy, "samples", NOON).drop == files
    assert plan(files, policy, "windows", NOON).drop == Files((), ())
    assert Delta.find("/nowhere") is None
