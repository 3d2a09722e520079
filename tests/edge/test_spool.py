import errno
import os
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry_edge.observe import spool as spool_module
from skerry_edge.observe.segment import HEAD
from skerry_edge.observe.spool import Cursor, Record, Spool
from skerry_shared import wire
from skerry_shared.errors import StateError
from skerry_shared.telemetry import Session, SignedSession, Up

pytestmark = pytest.mark.arm64


ROOMY = 1 << 20


def opening(session: bytes) -> SignedSession:
    return SignedSession(wire.encode(Session("f", "d", session, "k", b"w")), b"signature", b"certificate")


def spool_of(folder: Path, session: bytes = b"one", segment_bytes: int = ROOMY) -> Spool:
    spool = Spool(folder, segment_bytes)
    spool.begin(opening(session))
    return spool


def put(spool: Spool, counter: int, up: bytes = b"") -> None:
    spool.sync(spool.write(counter, up or b"batch %d" % counter))


def records(spool: Spool) -> list[Record]:
    found, cursor = [], Cursor()
    while (record := spool.read(cursor)) is not None:
        found.append(record)
        cursor = record.after
    return found


def batches(spool: Spool) -> list[tuple[bytes, int]]:
    return [(record.session, record.counter) for record in records(spool) if record.counter]


def test_what_was_put_is_read_in_order_after_its_opening_and_after_a_restart(tmp_path: Path) -> None:
    first = spool_of(tmp_path)
    for counter in (1, 2, 3):
        put(first, counter)
    second = spool_of(tmp_path, b"two")
    put(second, 1)
    first.close()

    found = records(second)
    assert [(r.session, r.counter) for r in found] == [
        (b"one", 0), (b"one", 1), (b"one", 2), (b"one", 3), (b"two", 0), (b"two", 1),
    ]  # fmt: skip
    assert wire.decode(Up, found[0].up).session == opening(b"one")
    assert found[2].up == b"batch 2"
    second.close()


def test_nothing_goes_before_its_acknowledgement(tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    for counter in (1, 2, 3):
        put(spool, counter)
    spool.begin(opening(b"two"))
    put(spool, 1)

    spool.acknowledge(b"one", 2)
    assert batches(spool) == [(b"one", 3), (b"two", 1)]
    spool.acknowledge(b"one", 1)  # late and out of order
    assert batches(spool) == [(b"one", 3), (b"two", 1)]
    assert len(list(tmp_path.iterdir())) == 2
    spool.acknowledge(b"one", 3)
    assert batches(spool) == [(b"two", 1)]
    assert len(list(tmp_path.iterdir())) == 1
    spool.close()
    assert batches(Spool(tmp_path, ROOMY)) == [(b"two", 1)]


def test_a_large_open_segment_is_renewed_once_it_is_acknowledged(tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    put(spool, 1, bytes(spool_module.RENEWED))
    spool.acknowledge(b"one", 1)
    assert list(tmp_path.iterdir()) == []
    put(spool, 2)
    assert batches(spool) == [(b"one", 2)]
    spool.close()


def test_dropping_takes_whole_segments_oldest_first_and_tells_how_much_is_lost(tmp_path: Path) -> None:
    spool = spool_of(tmp_path, segment_bytes=1_000)
    for counter in range(1, 11):
        put(spool, counter, bytes(300))
    assert len(list(tmp_path.iterdir())) > 2
    spool.acknowledge(b"one", 1)

    lost = spool.drop_oldest()

    kept = [counter for _, counter in batches(spool)]
    assert kept == list(range(2 + lost, 11)) and lost > 0
    assert spool.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    while spool.size:
        lost += spool.drop_oldest()  # the one that takes records as well
    assert lost == 9 and list(tmp_path.iterdir()) == []
    put(spool, 11)
    assert batches(spool) == [(b"one", 11)]
    spool.close()


def test_after_a_gap_in_the_counters_a_new_segment_begins(tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    put(spool, 1)
    put(spool, 3)
    assert [record.counter for record in records(spool)][-2:] == [0, 3]
    spool.close()


def test_no_batch_takes_more_bytes_than_was_said(tmp_path: Path) -> None:
    spool = spool_of(tmp_path, segment_bytes=1_000)
    for counter in range(1, 11):
        cost, before = spool.cost(bytes(300)), spool.size
        put(spool, counter, bytes(300))
        assert spool.size - before <= cost
    spool.close()


@settings(max_examples=60)
@given(data=st.data())
def test_after_a_torn_tail_all_before_it_is_there_and_new_batches_follow(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = spool_of(folder)
    for counter in range(1, 5):
        put(spool, counter)
    ends = [record.after.offset for record in records(spool)]
    spool.close()
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)

    again = spool_of(folder, b"two")

    whole = sum(end <= at for end in ends) - 1  # the first is the opening's
    assert batches(again) == [(b"one", counter) for counter in range(1, whole + 1)]
    assert again.torn == (at not in ends or len(content) > at)
    put(again, 1)
    assert batches(again)[-1] == (b"two", 1)
    again.close()


def test_recovery_stops_at_a_record_out_of_order(tmp_path: Path) -> None:
    spool = spool_of(tmp_path)
    for counter in (1, 2, 3):
        put(spool, counter)
    spool.close()
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    length = HEAD.size + len(b"batch 2")
    path.write_bytes(content[: -2 * length] + content[-length:])  # 1, 3
    assert batches(Spool(tmp_path, ROOMY)) == [(b"one", 1)]


def test_a_full_disk_loses_that_batch_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = spool_of(tmp_path)
    put(spool, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        ticket = spool.write(2, b"batch 2")
        with pytest.raises(StateError, match="No space left"):
            spool.sync(ticket)
    with pytest.raises(StateError, match="durable"):
        spool.sync(ticket)  # a later fdatasync that succeeds proves nothing about this one
    put(spool, 3)
    assert batches(spool)[-1] == (b"one", 3)
    spool.close()
    assert batches(Spool(tmp_path, ROOMY))[-1] == (b"one", 3)


def test_waiting_threads_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = spool_of(tmp_path)
    tickets = [spool.write(counter, b"x") for counter in range(1, 9)]
    calls: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    threads = [threading.Thread(target=spool.sync, args=(ticket,)) for ticket in tickets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    spool.close()


def test_writers_and_a_reader_at_once(tmp_path: Path) -> None:
    spool, lock, counter = spool_of(tmp_path, segment_bytes=64 << 10), threading.Lock(), 0
    seen: list[int] = []

    def write() -> None:
        nonlocal counter
        for _ in range(50):
            with lock:
                counter += 1
                ticket = spool.write(counter, random.Random(counter).randbytes(2_000))
            spool.sync(ticket)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    cursor = Cursor()
    while len(seen) < 200:
        record = spool.read(cursor)
        if record is None:
            continue
        cursor = record.after
        if record.counter:
            assert record.up == random.Random(record.counter).randbytes(2_000)
            seen.append(record.counter)
            spool.acknowledge(b"one", record.counter)
    for thread in threads:
        thread.join()
    assert seen == list(range(1, 201))
    spool.close()
