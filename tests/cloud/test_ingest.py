import asyncio
import logging
import math
import random
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import SQLAlchemyError

from skerry_cloud.ingest import batches, flow, sessions
from skerry_cloud.ingest.flow import Ingest
from skerry_cloud.ingest.lake import QUARANTINE, Lake, columns
from skerry_edge.observe.arrow import encode
from skerry_shared import latency, windows, wire
from skerry_shared.errors import InputError, NotFoundError, StateError, TrustError, UsageError
from skerry_shared.identity import Authority, new_key, request
from skerry_shared.release import Channel
from skerry_shared.sealing import IngestKey, Sealer
from skerry_shared.telemetry import DEFAULTS, NO_HEAT, Ack, Down, Header, Sealed, Up, pack

NOW = datetime.now(timezone.utc)
AUTHORITY, KEY, INGEST = Authority.new("north", NOW), new_key(), IngestKey.new()


def device(name: str, authority: Authority = AUTHORITY, fleet: str = "north") -> Sealer:
    certificate = authority.sign_request(request(name, KEY), name, NOW, 1)
    return Sealer(fleet, name, certificate, KEY, INGEST.public_bytes())


def opening(sealer: Sealer, next: int = 1) -> bytes:
    return wire.encode(Up(session=sealer.opening, next=next))


def labels(sealer: Sealer, *ids: str) -> bytes:
    stream = encode("labels", {"time": [0.0] * len(ids), "prediction_id": ids, "label": ["boot"] * len(ids)})
    return wire.encode(Up(batch=sealer.seal("labels", pack(stream))))


def event(sealer: Sealer, reason: str) -> bytes:
    return wire.encode(Up(batch=sealer.seal("events", pack(encode("events", ROWS["events"] | {"reason": [reason]})))))


def sealed(sealer: Sealer, table: str, payload: bytes) -> bytes:
    return wire.encode(Up(batch=sealer.seal(table, payload)))


CHANNELS = (Channel("c", (0.5,), (5, 5, 0)), Channel("d", (), (9, 1)), Channel("e", (1.0, 2.0), (2, 2, 2, 0)))
COUNTS = [np.array([0, 3, 1]), np.array([0, 0]), np.array([1, 300, 0, 2])]

ROWS: dict[str, dict[str, list[Any]]] = {  # one good row a table
    "windows": {
        "workload": ["w"], "release": [1], "start": [1.0], "end": [2.0], "packed": [windows.pack(COUNTS)],
    },
    "samples": {
        "workload": ["w"], "release": [1], "time": [1.0], "prediction_id": ["p"], "input": [b"i"],
        "encoding": ["float16"], "scores": [b"s"], "stratum": ["rare"], "probability": [0.5], "audit": [0.5],
    },
    "labels": {"time": [1.0], "prediction_id": ["p"], "label": ["boot"]},
    "events": {
        "time": [0.0], "subject": ["update"], "from": ["x"], "to": ["x"], "reason": ["x"], "workload": ["w"],
        "release": [1], "rollout": [1],
    },
    "load": {
        "workload": ["w"], "release": [1], "start": [1.0], "end": [2.0], "waited": [3], "shared": [1], "shed": [1],
        "expired": [0], "refused": [0],
    },
    "service": {
        "workload": ["w"], "release": [1], "start": [1.0], "end": [2.0], "answered": [3], "errors": [1],
        "latency": [[0] * latency.BINS], "hottest_c": [NO_HEAT], "throttled_s": [0.5], "power_mode": ["15W"],
    },
    "shadow": {
        "workload": ["w"], "release": [2], "champion": [1], "rollout": [1], "start": [1.0], "end": [2.0],
        "compared": [9], "agreed": [8], "failed": [1], "shift": [0.1], "agreement_low": [0.5], "agreement_high": [1.0],
        "champion_p50_ms": [0.1], "champion_p99_ms": [0.2], "candidate_p50_ms": [0.1], "candidate_p99_ms": [0.2],
    },
    "measured": {
        "time": [1.0], "workload": ["w"], "job": [7], "sha256": ["ab"], "provider": ["cpu"], "fault": ["f" * 5000],
        "max_diff": [0.0], "p50_ms": [3.1], "load_ms": [20.0], "memory_mb": [4.0], "device_class": ["c"],
    },
}  # fmt: skip


@dataclass
class Cloud:
    """An ingest over a folder, and what it told devices and the rest of the cloud."""

    folder: Path
    ingest: Ingest
    lake: Lake
    acks: list[tuple[str, Ack]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # devices, to send again
    told: list[tuple[str, int]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    looked_up: list[tuple[str, int]] = field(default_factory=list)  # models whose channels ingest asked for
    fails: dict[str, Exception] = field(default_factory=dict)  # a table's listeners, or "acknowledge"

    async def channels(self, device: str, workload: str, release: int) -> Sequence[Channel]:
        self.looked_up.append((workload, release))
        if (workload, release) != ("w", 1):
            raise NotFoundError(f"bundle: no {workload}/{release}")
        return CHANNELS

    async def acknowledge(self, device: str, down: bytes) -> bool:
        said = wire.decode(Down, down)
        if said.again:
            self.asked.append(device)
            return True
        ack = said.ack
        assert ack is not None
        if "acknowledge" in self.fails:
            self.changed.set()
            raise self.fails["acknowledge"]
        self.acks.append((device, ack))
        self.changed.set()
        return True

    async def committed(self, table: str, rows: pa.Table) -> None:
        assert not self.acks or self.acks[-1][1].counter < max(rows.column("counter").to_pylist())
        if table in self.fails:
            raise self.fails[table]
        self.told.append((table, rows.num_rows))

    async def take(self, who: Sealer | str, *ups: bytes) -> None:
        name = who if isinstance(who, str) else who._device
        for up in ups:
            await self.ingest.arrived(name, up)

    async def acknowledged(self, sealer: Sealer, counter: int) -> None:
        async def wait() -> None:
            while not any(ack.session == sealer.session and ack.counter >= counter for _, ack in self.acks):
                self.changed.clear()
                await self.changed.wait()

        await asyncio.wait_for(wait(), 20)

    def ids(self) -> list[str]:
        rows = Lake(self.folder / "lake").scan("labels").sort_by([("counter", "ascending"), ("row", "ascending")])
        found: list[str] = rows.column("prediction_id").to_pylist()
        return found


@asynccontextmanager
async def cloud_of(folder: Path, lake: Lake | None = None) -> AsyncIterator[Cloud]:
    lake = lake or Lake(folder / "lake")
    cloud = Cloud(folder, None, lake)  # type: ignore[arg-type]
    cloud.ingest = Ingest(
        lake,
        folder / "sessions",
        "north",
        AUTHORITY.certificate,
        INGEST,
        cloud.channels,
        acknowledge=cloud.acknowledge,
        committed=cloud.committed,
        clock=lambda: 5.0,
    )
    task = asyncio.create_task(cloud.ingest.run())
    try:
        yield cloud
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_rows_come_with_their_origin_and_are_acknowledged_after_they_are_durable(tmp_path: Path) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            a = device("a")
            await cloud.take(a, opening(a), labels(a, "p1", "p2"), event(a, "because"), labels(a, "p3"))
            await cloud.acknowledged(a, 3)
            rows = cloud.lake.scan("labels").sort_by([("counter", "ascending"), ("row", "ascending")]).to_pylist()
            origin = {"device": "a", "session": a.session.hex(), "received": 5.0, "time": 0.0, "label": "boot"}
            assert rows == [
                {"prediction_id": "p1", "counter": 1, "row": 0, **origin},
                {"prediction_id": "p2", "counter": 1, "row": 1, **origin},
                {"prediction_id": "p3", "counter": 3, "row": 0, **origin},
            ]
            assert cloud.lake.scan("events").column("reason").to_pylist() == ["because"]
            assert {table for table, _ in cloud.told} == {"labels", "events"}
            assert sum(rows for _, rows in cloud.told) == 4

    asyncio.run(run())


def test_what_comes_again_is_acknowledged_but_not_counted_twice_also_after_a_restart(tmp_path: Path) -> None:
    async def run() -> None:
        a = device("a")
        ups = [opening(a), labels(a, "p1"), labels(a, "p2")]
        async with cloud_of(tmp_path) as cloud:
            await cloud.take(a, *ups, *ups)
            await cloud.acknowledged(a, 2)
        async with cloud_of(tmp_path) as cloud:
            await cloud.take(a, *ups)
            await cloud.acknowledged(a, 2)
            await cloud.take(a, labels(a, "p3"))
            await cloud.acknowledged(a, 3)
            assert cloud.ids() == ["p1", "p2", "p3"]
            assert cloud.told == [("labels", 1)]

    asyncio.run(run())


def test_a_batch_after_a_loss_waits_for_what_was_lost(tmp_path: Path) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            a = device("a")
            ups = [labels(a, "p1"), labels(a, "p2"), labels(a, "p3")]
            await cloud.take(a, opening(a), ups[0], ups[2], ups[2])
            await cloud.acknowledged(a, 1)
            assert cloud.asked == ["a"]
            await cloud.take(a, ups[1], ups[2])
            await cloud.acknowledged(a, 3)
            assert cloud.ids() == ["p1", "p2", "p3"]
            assert [ack.counter for _, ack in cloud.acks] in ([1, 3], [1, 2, 3])

    asyncio.run(run())


def test_an_opening_says_that_a_gap_is_meant(tmp_path: Path) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            a = device("a")
            ups = [labels(a, "p1"), labels(a, "p2"), labels(a, "p3"), labels(a, "p4"), labels(a, "p5")]
            await cloud.take(a, opening(a), ups[0], opening(a, 3), ups[4], ups[2], ups[4])
            await cloud.acknowledged(a, 3)
            await cloud.take(a, ups[3], ups[4])
            await cloud.acknowledged(a, 5)
            assert cloud.ids() == ["p1", "p3", "p4", "p5"]
            assert cloud.asked == ["a"]

    asyncio.run(run())


def test_a_restarted_cloud_reads_what_waited_at_a_broker(tmp_path: Path) -> None:
    async def run() -> None:
        a = device("a")
        async with cloud_of(tmp_path) as cloud:
            await cloud.take(a, opening(a), labels(a, "p1"))
            await cloud.acknowledged(a, 1)
        async with cloud_of(tmp_path) as cloud:
            await cloud.take(a, labels(a, "p2"))  # no opening
            await cloud.acknowledged(a, 2)
            assert cloud.ids() == ["p1", "p2"]

    asyncio.run(run())


class CutLake(Lake):
    """Fails before its n-th append, as a crash or a full disk would."""

    def __init__(self, folder: Path, fail_at: int) -> None:
        super().__init__(folder)
        self.left = fail_at
        self.failed = threading.Event()

    def append(self, table: str, rows: pa.Table, watermarks: Any, before: Any = None) -> None:
        self.left -= 1
        if self.left == 0:
            self.failed.set()
            raise OSError("no space left on device")
        super().append(table, rows, watermarks, before)


@pytest.mark.parametrize("fail_at", [1, 2])
@pytest.mark.parametrize("restart", [False, True])
def test_a_commit_cut_between_tables_loses_and_repeats_nothing(fail_at: int, restart: bool, tmp_path: Path) -> None:
    async def run() -> None:
        a = device("a")
        ups = [opening(a), labels(a, "p1"), event(a, "e2"), labels(a, "p3")]
        lake = CutLake(tmp_path / "lake", fail_at)
        async with cloud_of(tmp_path, lake) as cloud:
            await cloud.take(a, *ups)  # one group: the consumer has not run yet
            assert await asyncio.to_thread(lake.failed.wait, 10)
            assert cloud.acks == []
            if not restart:
                await cloud.take(a, *ups)
                await cloud.acknowledged(a, 3)
        async with cloud_of(tmp_path) as cloud:
            await cloud.take(a, *ups)
            await cloud.acknowledged(a, 3)
            assert cloud.ids() == ["p1", "p3"]
            assert cloud.lake.scan("events").num_rows == 1

    asyncio.run(run())


class SlowLake(Lake):
    """Its first append waits, and then fails."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.waiting, self.go_on = threading.Event(), threading.Event()

    def append(self, table: str, rows: pa.Table, watermarks: Any, before: Any = None) -> None:
        if not self.go_on.is_set():
            self.waiting.set()
            self.go_on.wait(20)
            raise OSError("no space left on device")
        super().append(table, rows, watermarks, before)


def test_what_was_opened_while_a_commit_failed_is_not_acknowledged_before_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = threading.Event()
    open_some = Ingest._open_some

    def watched(ingest: Ingest, messages: Any) -> Any:
        group = open_some(ingest, messages)
        if any(batch.counter == 3 for batch in group.batches):
            opened.set()
        return group

    async def run() -> None:
        a = device("a")
        ups = [opening(a), labels(a, "p1"), labels(a, "p2"), labels(a, "p3")]
        lake = SlowLake(tmp_path / "lake")
        async with cloud_of(tmp_path, lake) as cloud:
            await cloud.take(a, *ups[:3])
            assert await asyncio.to_thread(lake.waiting.wait, 20)
            await cloud.take(a, ups[3])
            assert await asyncio.to_thread(opened.wait, 20)
            assert cloud.acks == []
            lake.go_on.set()
            await cloud.take(a, ups[0])  # the device comes again, with the opening first
            await cloud.take(a, *ups[1:])
            await cloud.acknowledged(a, 3)
            assert cloud.ids() == ["p1", "p2", "p3"]

    monkeypatch.setattr(Ingest, "_open_some", watched)
    asyncio.run(run())


def test_what_does_not_fit_is_quarantined_and_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            a = device("a")
            bad = [
                a.seal("labels", b"not zstd"),
                a.seal("labels", pack(b"not arrow")),
                a.seal("gossip", pack(b"")),
                a.seal("events", pack(encode("labels", {"time": [1.0], "prediction_id": ["p"], "label": ["x"]}))),
                a.seal("labels", pack(with_null())),
            ]
            await cloud.take(a, opening(a), *(wire.encode(Up(batch=sealed)) for sealed in bad), labels(a, "p6"))
            await cloud.acknowledged(a, 6)
            kept = cloud.lake.scan(QUARANTINE).sort_by("counter")
            assert kept.column("counter").to_pylist() == [1, 2, 3, 4, 5]
            assert kept.column("payload").to_pylist()[0] == b"not zstd"
            assert kept.column("device").to_pylist() == ["a"] * 5
            refused = [ack for _, ack in cloud.acks if ack.refused]
            assert [ack.counter for ack in refused] == [1, 2, 3, 4, 5]
            assert [ack.refused for ack in refused] == kept.column("reason").to_pylist()
            assert "null" in refused[-1].refused and "gossip" in refused[2].refused
            assert cloud.ids() == ["p6"]

    asyncio.run(run())


def with_null() -> bytes:
    return written(pa.table({"time": [1.0], "prediction_id": ["p"], "label": pa.array([None], pa.string())}))


def written(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def read(table: str, payload: bytes) -> pa.Table:
    return batches.rows_of([batches.decode(Header("a", b"s" * 16, 1, table), payload)], [{("w", 1): CHANNELS}], 5.0)


@pytest.mark.parametrize("table", ROWS)
def test_a_good_row_is_taken_as_it_is(table: str) -> None:
    kept = ROWS[table] if table != "windows" else KEPT
    assert read(table, pack(encode(table, ROWS[table]))).select(list(kept)).to_pydict() == kept
    assert read(table, pack(encode(table, {name: [] for name in ROWS[table]}))).num_rows == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((column, value) for column in ("windows.start", "windows.end", "samples.time", "labels.time", "events.time")
          for value in (math.nan, math.inf, -math.inf, 1e300)),
        *(("samples.probability", value) for value in (math.nan, math.inf, -0.1, 0.0, 1.1)),
        ("windows.end", 0.5),
        ("windows.packed", b""), ("windows.packed", windows.pack(COUNTS)[:-1]), ("windows.packed", b"\0\1" + bytes(9)),
        ("windows.packed", windows.pack([*COUNTS, COUNTS[0]])), ("windows.packed", bytes([0] * 60 + [255] * 20)),
        ("windows.release", 2),
        *((f"load.{name}", value) for name in ("waited", "shed", "refused") for value in (-1, 1 << 41)),
        *((f"samples.{name}", "other") for name in ("encoding", "stratum")), ("samples.audit", 0.6),
        ("samples.audit", 0.0), ("service.errors", -1), ("service.latency", [0]), ("service.throttled_s", -1.0),
        *(("service.hottest_c", value) for value in (math.nan, -300.0)),
        ("load.end", 0.5), ("shadow.end", 0.5), ("shadow.champion", -1), ("shadow.agreed", -1),
        *((f"shadow.{name}", value) for name in ("shift", "agreement_low") for value in (math.nan, -0.1, 1.1)),
        ("windows.release", -1), ("samples.release", -1), ("events.release", -1), ("events.rollout", -1),
        *((column, "x" * (batches.TEXT + 1)) for column in ("windows.workload", "samples.prediction_id", "events.to")),
        ("events.reason", "x" * (batches.LONG_TEXT + 1)),
        ("events.subject", "rollout"), ("events.subject", ""),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_refuses_its_batch_and_names_the_column(column: str, value: Any) -> None:
    table, name = column.split(".")
    rows = {other: [*cells, *cells] for other, cells in ROWS[table].items()}
    rows[name][1] = value
    with pytest.raises(InputError, match=rf"^{column}: "):
        read(table, pack(encode(table, rows)))


def test_batches_of_older_devices_are_filled_and_those_of_newer_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def table(**columns: Any) -> bytes:
        return pack(written(pa.table(columns)))

    old = {"time": [1.0, 2.0], "prediction_id": ["p", "q"]}
    with pytest.raises(InputError, match=r"labels\.label: is missing"):
        read("labels", table(**old))
    monkeypatch.setitem(DEFAULTS, "labels", {"label": "unknown"})
    rows = read("labels", table(**old))
    assert rows.select(["time", "prediction_id", "label"]).to_pydict() == {**old, "label": ["unknown"] * 2}
    assert read("labels", table(label=["x"], prediction_id=["p"], time=[1.0])).schema == rows.schema
    with pytest.raises(InputError, match=r"labels\.battery: not known here"):
        read("labels", table(**old, battery=[0.5, 0.5]))
    with pytest.raises(InputError, match=r"labels\.time: is int64, not double"):
        read("labels", table(**old | {"time": [1, 2]}))
    with pytest.raises(InputError, match=r"labels\.time: .* comes twice"):
        read("labels", pack(written(pa.table([[1.0], [1.0], ["p"]], ["time", "time", "prediction_id"]))))


def test_buffers_that_overlap_are_refused() -> None:
    text = pa.array(["x" * 1000] * 50)
    one = pa.RecordBatch.from_arrays([pa.array([1.0] * 50), text, text], schema=columns("labels"))
    header = Header("a", b"s" * 16, 1, "labels")
    honest = batches.decode(header, pack(written(pa.Table.from_batches([one]))))
    assert batches.rows_of([honest], [{}], 5.0).num_rows == 50
    with pytest.raises(InputError, match="overlap"):
        batches.rows_of([replace(honest, size=60_000)], [{}], 5.0)


def test_one_bad_batch_of_many_is_found_and_the_others_are_taken(tmp_path: Path) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            a, b = device("a"), device("b")
            late = encode("labels", {"time": [1e300], "prediction_id": ["bad"], "label": ["x"]})
            ups = [labels(a, f"p{number}") for number in range(13)]
            await cloud.take(a, opening(a), *ups, sealed(a, "labels", pack(late)), labels(a, "after"))
            await cloud.take(b, opening(b), labels(b, "other"))
            await cloud.acknowledged(a, 15)
            await cloud.acknowledged(b, 1)
            assert sorted(cloud.ids()) == sorted(["after", "other", *(f"p{number}" for number in range(13))])
            (kept,) = cloud.lake.scan(QUARANTINE).to_pylist()
            assert (kept["device"], kept["counter"]) == ("a", 14) and "labels.time" in kept["reason"]
            assert [ack.counter for _, ack in cloud.acks if ack.refused] == [14]

    asyncio.run(run())


def test_windows_of_a_release_that_is_not_known_are_quarantined(tmp_path: Path) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            a = device("a")
            unknown = pack(encode("windows", ROWS["windows"] | {"release": [2]}))
            odd = [
                pack(written(pa.table(ROWS["windows"] | change, schema=columns("windows"))))
                for change in ({"workload": ["\0"]}, {"workload": [None]}, {"release": [None]}, {"release": [1 << 40]})
            ]
            known = pack(encode("windows", ROWS["windows"]))
            payloads = (known, unknown, *odd, known)
            await cloud.take(a, opening(a), *(sealed(a, "windows", payload) for payload in payloads))
            await cloud.acknowledged(a, 7)
            kept = cloud.lake.scan(QUARANTINE).sort_by("counter")
            assert kept["payload"].to_pylist() == [unknown, *odd]
            assert all(0 <= release < 1 << 31 and workload == "w" for workload, release in cloud.looked_up)
            assert kept["reason"].to_pylist()[0] == "windows.release: w/2 has no bundle here for this device"
            rows = cloud.lake.scan("windows").sort_by([("counter", "ascending"), ("row", "ascending")])
            assert rows.select(list(KEPT)).to_pydict() == {name: column * 2 for name, column in KEPT.items()}
            assert rows["row"].to_pylist() == [0, 1, 0, 1] and rows["counter"].to_pylist() == [1, 1, 7, 7]

    asyncio.run(run())


def test_more_rows_than_a_device_sends_are_refused() -> None:
    count = batches.ROWS + 1
    with pytest.raises(InputError, match=f"labels: {count} rows"):
        read(
            "labels",
            pack(encode("labels", {"time": [0.0] * count, "prediction_id": [""] * count, "label": [""] * count})),
        )


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("version", [pa.ipc.MetadataVersion.V4, pa.ipc.MetadataVersion.V5])
def test_compressed_buffers_are_refused_before_they_are_unpacked(
    codec: str, version: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"time": [0.0], "prediction_id": ["\0" * (120 << 20)], "label": [""]}
    payload = pack(written(pa.table(rows, schema=columns("labels")), metadata_version=version, compression=codec))
    assert len(payload) < 1 << 20
    monkeypatch.setattr(pa.ipc, "read_record_batch", None)  # is not even called
    with pytest.raises(InputError, match="compressed"):
        read("labels", payload)


def test_compression_that_custom_metadata_tell_is_refused() -> None:
    sink = pa.BufferOutputStream()
    (batch,) = pa.table(ROWS["labels"], schema=columns("labels")).to_batches()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch, custom_metadata={"ARROW:experimental_compression": "zstd"})
    with pytest.raises(InputError, match="compressed"):
        read("labels", pack(sink.getvalue().to_pybytes()))


def test_dictionaries_are_refused() -> None:
    rows = pa.table({"time": [0.0], "prediction_id": ["p"], "label": pa.array(["x"]).dictionary_encode()})
    with pytest.raises(InputError, match="dictionary"):
        read("labels", pack(written(rows)))


KEPT: dict[str, list[Any]] = {
    "workload": ["w", "w"], "release": [1, 1], "start": [1.0, 1.0], "end": [2.0, 2.0], "channel": ["c", "e"],
    "counts": [[0, 3, 1], [1, 300, 0, 2]],
}  # fmt: skip

GOOD = {table: encode(table, rows) for table, rows in ROWS.items()}


@st.composite
def nonsense(draw: st.DrawFn) -> tuple[str, bytes]:
    """A table and a payload: bytes, packed bytes, or a packed stream with some bytes changed."""
    table = draw(st.sampled_from([*GOOD, "gossip"]))
    stream = bytearray(GOOD.get(table, GOOD["labels"]))
    kind = draw(st.sampled_from(["raw", "packed", "changed", "changed", "changed"]))
    if kind != "changed":
        data = draw(st.binary(max_size=300))
        return table, data if kind == "raw" else pack(data)
    for place in draw(st.lists(st.integers(0, len(stream) - 1), min_size=1, max_size=4)):
        stream[place] = draw(st.integers(0, 255))
    return table, pack(bytes(stream))


@settings(max_examples=1500)
@given(nonsense())
def test_reading_ends_in_rows_or_in_an_input_error(given: tuple[str, bytes]) -> None:
    table, payload = given
    with suppress(InputError):
        read(table, payload).validate(full=True)


@settings(max_examples=8)
@given(st.lists(nonsense(), min_size=50, max_size=150))
def test_ingest_goes_on_after_whatever_a_device_seals(given: list[tuple[str, bytes]]) -> None:
    async def run(folder: Path) -> None:
        async with cloud_of(folder) as cloud:
            a = device("a")
            await cloud.take(a, opening(a), *(sealed(a, table, payload) for table, payload in given))
            await cloud.take(a, labels(a, "last"))
            await cloud.acknowledged(a, len(given) + 1)
            assert "last" in cloud.ids()
            kept = sum(len(set(cloud.lake.scan(table).column("counter").to_pylist())) for table in (*GOOD, QUARANTINE))
            assert kept <= len(given) + 1
            refused = {ack.counter for _, ack in cloud.acks if ack.refused}
            assert refused == set(cloud.lake.scan(QUARANTINE).column("counter").to_pylist())

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


@settings(max_examples=5)
@given(st.lists(st.binary(max_size=200), max_size=100), st.binary(max_size=40), st.integers(0, 2**64 - 1))
def test_ingest_goes_on_after_whatever_a_device_sends(ups: list[bytes], session: bytes, counter: int) -> None:
    async def run(folder: Path) -> None:
        async with cloud_of(folder) as cloud:
            a, b = device("a"), device("a")
            header = wire.encode(Header("a", session, counter, "labels"))
            changed = replace(b.opening, certificate=session, signature=session)
            opened = wire.encode(Up(session=replace(b.opening, document=header)))
            ups.extend([wire.encode(Up(batch=Sealed(header, session))), wire.encode(Up(session=changed)), opened])
            await cloud.take(a, *ups, opening(a), labels(a, "last"))
            await cloud.acknowledged(a, 1)

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


def test_field_names_that_are_no_text_are_quarantined(tmp_path: Path) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            a = device("a")
            stream = GOOD["labels"].replace(b"label\0", b"lab\xff\xfe\0")
            assert stream != GOOD["labels"]
            await cloud.take(a, opening(a), sealed(a, "labels", pack(stream)), labels(a, "p2"))
            await cloud.acknowledged(a, 2)
            (kept,) = cloud.lake.scan(QUARANTINE).to_pylist()
            assert kept["counter"] == 1 and kept["payload"] == pack(stream)
            assert [ack.refused for _, ack in cloud.acks if ack.refused] == [kept["reason"]]

    asyncio.run(run())


@pytest.mark.parametrize(
    "error", [RuntimeError("\udcff" * 1000), MemoryError(), UnicodeDecodeError("x", b"", 0, 1, "y")]
)
def test_what_nobody_foresaw_is_quarantined_too(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise error

    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            a = device("a")
            await cloud.take(a, opening(a), labels(a, "p1"))
            await cloud.acknowledged(a, 1)
            (kept,) = cloud.lake.scan(QUARANTINE).to_pylist()
            assert kept["counter"] == 1 and type(error).__name__ in kept["reason"]

    monkeypatch.setattr(batches, "unpack", broken)
    asyncio.run(run())


@pytest.mark.parametrize("counter", [1 << 63, (1 << 64) - 1])
def test_a_counter_beyond_the_lakes_is_not_taken_and_stops_nobody(counter: int, tmp_path: Path) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            a, b = device("a"), device("b")
            a.counter = counter - 1
            await cloud.take(a, opening(a), labels(a, "p1"))
            await cloud.take(b, opening(b), labels(b, "p2"))
            await cloud.acknowledged(b, 1)
            assert [name for name, _ in cloud.acks] == ["b"]
            assert cloud.ids() == ["p2"] and cloud.lake.scan(QUARANTINE).num_rows == 0

    asyncio.run(run())


def test_the_largest_counter_is_taken(tmp_path: Path) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            a = device("a")
            a.counter = (1 << 63) - 2
            await cloud.take(a, opening(a, a.counter + 1), labels(a, "p1"))
            await cloud.acknowledged(a, (1 << 63) - 1)
            assert cloud.ids() == ["p1"]

    asyncio.run(run())


def test_a_group_is_bounded_in_unpacked_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            a = device("a")
            await cloud.take(a, opening(a), *(labels(a, f"p{number}") for number in range(5)))
            await cloud.acknowledged(a, 5)
            assert cloud.told == [("labels", 1)] * 5
            assert cloud.ids() == [f"p{number}" for number in range(5)]

    monkeypatch.setattr(flow, "UNPACKED", 1)
    asyncio.run(run())


@pytest.mark.parametrize("error", [StateError("no"), OSError("no"), SQLAlchemyError("no"), KeyError("no")])
def test_rows_that_could_not_be_acted_on_are_logged_and_acknowledged(
    error: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            cloud.fails["events"] = error
            a = device("a")
            await cloud.take(a, opening(a), event(a, "e1"), labels(a, "p2"))
            await cloud.acknowledged(a, 2)
            assert cloud.lake.scan("events").num_rows == 1  # where the server finds them later
            assert cloud.told == [("labels", 1)]
            del cloud.fails["events"]
            await cloud.take(a, event(a, "e3"))
            await cloud.acknowledged(a, 3)
            assert cloud.told == [("labels", 1), ("events", 1)]

    asyncio.run(run())
    (said,) = [record for record in caplog.records if "new rows of events" in record.getMessage()]
    assert said.levelno == logging.ERROR and said.exc_info


def test_a_carrier_that_fails_to_tell_does_not_end_ingest(tmp_path: Path) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            cloud.fails["acknowledge"] = RuntimeError("no")
            a = device("a")
            ups = [opening(a), labels(a, "p1")]
            await cloud.take(a, *ups)
            await asyncio.wait_for(cloud.changed.wait(), 20)
            assert cloud.told == [("labels", 1)] and not cloud.acks
            del cloud.fails["acknowledge"]
            await cloud.take(a, *ups)
            await cloud.acknowledged(a, 1)

    asyncio.run(run())


@pytest.mark.parametrize("name", [b"", b"s", b"s" * 300])
def test_a_session_has_a_name_of_sixteen_bytes(name: bytes, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="16"):
        sessions.Sessions(tmp_path).find("a", name)


def test_sessions_that_cannot_be_opened_are_shunned(tmp_path: Path) -> None:
    async def run() -> None:
        stranger = device("a", Authority.new("north", NOW))
        elsewhere = device("a", fleet="south")
        other = device("b")
        async with cloud_of(tmp_path) as cloud:
            for sealer in (stranger, elsewhere, other):
                await cloud.take("a", opening(sealer), labels(sealer, "p1"))
                await cloud.acknowledged(sealer, 0)
            assert [(name, ack.counter, bool(ack.refused)) for name, ack in cloud.acks] == [("a", 0, True)] * 3
            assert cloud.ids() == []

    asyncio.run(run())


def test_changed_replayed_and_unknown_batches_are_not_acknowledged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with cloud_of(tmp_path) as cloud:
            a, unknown = device("a"), device("a")
            sealed = wire.decode(Up, labels(a, "p1")).batch
            assert sealed is not None
            changed = Up(batch=replace(sealed, ciphertext=sealed.ciphertext[:-1] + b"\0"))
            await cloud.take(a, labels(unknown, "p"), labels(unknown, "p"))
            await cloud.take(a, opening(a), wire.encode(changed), b"\xff", wire.encode(Up(batch=Sealed(b"\xff", b""))))
            await cloud.take("b", wire.encode(Up(batch=sealed)))  # another device brings it
            await cloud.take(a, wire.encode(Up(batch=sealed)))
            await cloud.acknowledged(a, 1)
            assert [name for name, _ in cloud.acks] == ["a"]
            assert cloud.ids() == ["p1"]

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    said = [record.getMessage() for record in caplog.records]
    assert sum("never opened" in line for line in said) == 2  # of the unknown session, and of a's at b: once each


def test_carriers_wait_while_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        monkeypatch.setattr(flow, "WAITING", 100)
        lake = Lake(tmp_path / "lake")
        ingest = Ingest(lake, tmp_path, "north", AUTHORITY.certificate, INGEST, never, never, never)
        await ingest.arrived("a", bytes(200))
        waiting = asyncio.ensure_future(ingest.arrived("a", bytes(200)))
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done
        task = asyncio.create_task(ingest.run())
        await asyncio.wait_for(waiting, 10)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def never(*_: Any) -> Any:
        raise AssertionError("nothing is to be said")

    asyncio.run(run())


def test_old_openings_of_a_device_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PER_DEVICE", 3)
    kept = sessions.Sessions(tmp_path / "sessions")
    sealers = [device("a") for _ in range(5)]
    for sealer in sealers:
        kept.keep("a", sealer.session, sealer.opening)
    assert kept.find("a", sealers[-1].session) == sealers[-1].opening
    assert sum(kept.find("a", sealer.session) is not None for sealer in sealers) == 3


def test_a_device_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        sessions.Sessions(tmp_path).find("../a", b"1")


@pytest.mark.parametrize("seed", range(6))
def test_whoever_sees_whatever_part_of_a_session_nothing_is_lost_or_counted_twice(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ingests over one lake, each with what it remembers; a device that has dropped its batches 4 and 5."""
    monkeypatch.setattr(flow, "LINGER", 0.0)
    rng, a = random.Random(seed), device("a")
    ups = {n: labels(a, f"p{n}") if n % 3 else event(a, f"e{n}") for n in range(1, 10)}
    del ups[4], ups[5]

    async def run() -> None:
        async with cloud_of(tmp_path) as one, cloud_of(tmp_path) as two:
            one.changed = two.changed
            acknowledged = 0
            while acknowledged < max(ups):
                one.changed.clear()
                for up in flight(acknowledged):
                    for cloud in rng.choice([[one], [two], [one, two], []]):
                        await cloud.take(a, up)
                    await asyncio.sleep(rng.choice([0, 0, 0.01]))
                with suppress(asyncio.TimeoutError):  # none of them may have seen enough
                    await asyncio.wait_for(one.changed.wait(), 0.1)
                acknowledged = max((ack.counter for _, ack in (*one.acks, *two.acks)), default=0)

    def flight(acknowledged: int) -> list[bytes]:
        """What the device sends on a link: before a gap it waits until all is acknowledged."""
        first = min(n for n in ups if n > acknowledged)
        return [opening(a, first), *(ups[n] for n in range(first, 10 if first > 3 else 4))]

    asyncio.run(asyncio.wait_for(run(), 60))
    lake = Lake(tmp_path / "lake")
    found = lake.scan("labels")["counter"].to_pylist() + lake.scan("events")["counter"].to_pylist()
    assert sorted(found) == sorted(ups)


def test_an_ingest_that_slept_while_another_took_over_adds_only_what_is_new(tmp_path: Path) -> None:
    async def run() -> None:
        a = device("a")
        ups = [labels(a, f"p{number}") for number in range(1, 5)]
        async with cloud_of(tmp_path) as one, cloud_of(tmp_path) as two:
            await one.take(a, opening(a), ups[0])
            await one.acknowledged(a, 1)
            await two.take(a, opening(a, 2), ups[1], ups[2])
            await two.acknowledged(a, 3)
            await one.take(a, *ups[1:])
            await one.acknowledged(a, 4)
            assert one.ids() == ["p1", "p2", "p3", "p4"]
            assert one.told == [("labels", 1), ("labels", 1)]

    asyncio.run(run())
