import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from skerry_cloud.ingest import flow, sessions
from skerry_cloud.ingest.flow import Ingest
from skerry_cloud.ingest.lake import QUARANTINE, Lake
from skerry_edge.observe.arrow import encode
from skerry_shared import wire
from skerry_shared.errors import UsageError
from skerry_shared.identity import Authority, new_key, request
from skerry_shared.sealing import IngestKey, Sealer
from skerry_shared.telemetry import Ack, Down, Sealed, Up, pack

NOW = datetime.now(timezone.utc)
AUTHORITY, KEY, INGEST = Authority.new("north", NOW), new_key(), IngestKey.new()


def device(name: str, authority: Authority = AUTHORITY, fleet: str = "north") -> Sealer:
    certificate = authority.sign_request(request(name, KEY), name, NOW, 1)
    return Sealer(fleet, name, certificate, KEY, INGEST.public_bytes())


def opening(sealer: Sealer) -> bytes:
    return wire.encode(Up(session=sealer.opening))


def labels(sealer: Sealer, *ids: str) -> bytes:
    stream = encode("labels", {"time": [0.0] * len(ids), "prediction_id": ids, "label": ["boot"] * len(ids)})
    return wire.encode(Up(batch=sealer.seal("labels", pack(stream))))


def event(sealer: Sealer, reason: str) -> bytes:
    row: dict[str, list[Any]] = {name: ["x"] for name in ("subject", "from", "to", "workload")}
    row |= {"time": [0.0], "reason": [reason], "release": [1], "rollout": [1]}
    return wire.encode(Up(batch=sealer.seal("events", pack(encode("events", row)))))


@dataclass
class Cloud:
    """An ingest over a folder, and what it told devices and the rest of the cloud."""

    folder: Path
    ingest: Ingest
    lake: Lake
    acks: list[tuple[str, Ack]] = field(default_factory=list)
    told: list[tuple[str, int]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def acknowledge(self, device: str, down: bytes) -> bool:
        ack = wire.decode(Down, down).ack
        assert ack is not None
        self.acks.append((device, ack))
        self.changed.set()
        return True

    async def committed(self, table: str, rows: pa.Table) -> None:
        assert not self.acks or self.acks[-1][1].counter < max(rows.column("counter").to_pylist())
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
            await cloud.take(a, opening(a), ups[0], ups[2])
            await cloud.acknowledged(a, 1)
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
            await cloud.take(a, opening(a), ups[0], opening(a), ups[2], ups[4])
            await cloud.acknowledged(a, 3)
            await cloud.take(a, ups[3], ups[4])
            await cloud.acknowledged(a, 5)
            assert cloud.ids() == ["p1", "p3", "p4", "p5"]

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

    def append(self, table: str, rows: pa.Table, watermarks: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.failed.set()
            raise OSError("no space left on device")
        super().append(table, rows, watermarks)


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
    table = pa.table({"time": [1.0], "prediction_id": ["p"], "label": pa.array([None], pa.string())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


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
        ingest = Ingest(lake, tmp_path, "north", AUTHORITY.certificate, INGEST, never, never)
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
