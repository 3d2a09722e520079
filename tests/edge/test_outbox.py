import threading
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry_edge.observe.outbox import Loss, Outbox
from skerry_shared import wire
from skerry_shared.errors import InputError
from skerry_shared.identity import Authority, new_key, request
from skerry_shared.ports.carrier import MAX_MESSAGE
from skerry_shared.sealing import IngestKey, Opener, Sealer
from skerry_shared.telemetry import CLASS_OF, CLASSES, TABLES, Up

pytestmark = pytest.mark.arm64


NOW = datetime.now(timezone.utc)
AUTHORITY, KEY, INGEST = Authority.new("north", NOW), new_key(), IngestKey.new()


def outbox_of(folder: Path, max_bytes: int = 1 << 20) -> Outbox:
    certificate = AUTHORITY.sign_request(request("a", KEY), "a", NOW, 1)
    return Outbox(folder, max_bytes, lambda: Sealer("north", "a", certificate, KEY, INGEST.public_bytes()))


def opened(outbox: Outbox) -> list[tuple[int, str, bytes]]:
    """Counter, table and payload of all that waits, as the cloud would read it."""
    found, reader, opener = [], outbox.reader(), None
    while (record := reader.next()) is not None:
        up = wire.decode(Up, record.up)
        if up.session is not None:
            opener = Opener(up.session, "north", AUTHORITY.certificate, INGEST)
        elif up.batch is not None and opener is not None:
            header, payload = opener.open(up.batch)
            found.append((header.counter, header.table, payload))
    return found


def test_what_is_put_from_many_threads_is_sealed_in_order_and_on_disk(tmp_path: Path) -> None:
    outbox, woken = outbox_of(tmp_path), threading.Semaphore(0)
    outbox.on_put(woken.release)

    def put() -> None:
        for _ in range(20):
            outbox.put("labels", b"secret words")

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert opened(outbox) == [(counter, "labels", b"secret words") for counter in range(1, 81)]
    assert all(woken.acquire(blocking=False) for _ in range(80))
    (segment,) = (tmp_path / "labels").iterdir()
    assert b"secret words" not in segment.read_bytes()


def test_a_batch_that_can_never_fit_is_counted_and_drops_nothing(tmp_path: Path) -> None:
    outbox = outbox_of(tmp_path, max_bytes=10_000)
    outbox.put("windows", b"older")
    outbox.put("labels", bytes(20_000))
    outbox.put("labels", b"small")
    assert outbox.lost == {Loss("labels", "bound"): 1}
    assert opened(outbox) == [(2, "labels", b"small"), (1, "windows", b"older")]


def test_a_batch_beyond_a_budget_is_counted(tmp_path: Path) -> None:
    outbox = outbox_of(tmp_path)
    outbox.exceeded("samples", "9 bytes too many")
    assert outbox.lost == {Loss("samples", "budget"): 1}
    assert opened(outbox) == []


def test_what_waits_goes_most_precious_first(tmp_path: Path) -> None:
    outbox = outbox_of(tmp_path)
    for table in ("windows", "samples", "events", "labels", "load", "shadow"):
        outbox.put(table, table.encode())
    assert [table for _, table, _ in opened(outbox)] == ["labels", "events", "shadow", "samples", "windows", "load"]


def test_something_more_precious_goes_before_what_waited_longer(tmp_path: Path) -> None:
    outbox = outbox_of(tmp_path)
    for number in range(3):
        outbox.put("windows", b"%d" % number)
    reader = outbox.reader()
    assert [record.counter for record in (reader.next(), reader.next()) if record] == [0, 1]
    outbox.put("labels", b"truth")
    left = []
    while record := reader.next():
        left.append((class_of(outbox, record.session), record.counter))
    assert left == [("labels", 0), ("labels", 1), ("metrics", 2), ("metrics", 3)]


def class_of(outbox: Outbox, session: bytes) -> str:
    return next(name for name, lane in outbox._lanes.items() if lane.sealer.session == session)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(TABLES)), st.integers(1, 3_000)), max_size=80))
def test_the_bound_holds_and_only_the_least_precious_and_oldest_is_missing(
    tmp_path_factory: pytest.TempPathFactory, puts: list[tuple[str, int]]
) -> None:
    bound = 60_000
    outbox = outbox_of(tmp_path_factory.mktemp("outbox"), bound)
    put, missing = Counter[str](), Counter[str]()
    for table, size in puts:
        before = Counter(outbox.lost)
        outbox.put(table, bytes(size))
        kind = CLASS_OF[table]
        put[kind] += 1
        lost = {loss.kind for loss, count in outbox.lost.items() if count > before[loss]}
        assert all(RANK[name] >= RANK[kind] for name in lost), "something more precious gave way"
        lower = [name for name in CLASSES if RANK[name] > max((RANK[one] for one in lost), default=99)]
        assert not any(outbox.sizes()[name] for name in lower), "something less precious was kept"
        assert sum(outbox.sizes().values()) <= bound
    kept: dict[str, list[int]] = {name: [] for name in CLASSES}
    for counter, table, _ in opened(outbox):
        kept[CLASS_OF[table]].append(counter)
    for name, counters in kept.items():
        missing[name] = put[name] - len(counters)
        assert counters == sorted(counters)
        assert outbox.lost[Loss(name, "bound")] == missing[name]
    outbox.close()


RANK = {name: place for place, name in enumerate(CLASSES)}


def test_what_cannot_be_right_is_refused(tmp_path: Path) -> None:
    outbox = outbox_of(tmp_path)
    with pytest.raises(InputError, match="no 'gossip'"):
        outbox.put("gossip", b"")
    with pytest.raises(InputError, match="at most"):
        outbox.put("labels", bytes(MAX_MESSAGE))
    assert opened(outbox) == []
