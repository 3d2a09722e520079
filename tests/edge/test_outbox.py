import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest

from skerry_edge.observe.outbox import Outbox
from skerry_edge.observe.spool import Cursor, Spool
from skerry_shared import wire
from skerry_shared.errors import InputError
from skerry_shared.identity import Authority, new_key, request
from skerry_shared.ports.carrier import MAX_MESSAGE
from skerry_shared.sealing import IngestKey, Opener, Sealer
from skerry_shared.telemetry import Up

pytestmark = pytest.mark.arm64


NOW = datetime.now(timezone.utc)
AUTHORITY, KEY, INGEST = Authority.new("north", NOW), new_key(), IngestKey.new()


def outbox_of(folder: Path, max_bytes: int = 1 << 20) -> Outbox:
    certificate = AUTHORITY.sign_request(request("a", KEY), "a", NOW, 1)
    return Outbox(Spool(folder, max_bytes), Sealer("north", "a", certificate, KEY, INGEST.public_bytes()))


def opened(outbox: Outbox) -> list[tuple[int, str, bytes]]:
    """Counter, table and payload of all that waits, as the cloud would read it."""
    found, cursor, opener = [], Cursor(), None
    while (record := outbox.read(cursor)) is not None:
        cursor, up = record.after, wire.decode(Up, record.up)
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
    (segment,) = tmp_path.iterdir()
    assert b"secret words" not in segment.read_bytes()


def test_what_the_disk_refuses_is_counted_and_the_next_goes_on(tmp_path: Path) -> None:
    outbox = outbox_of(tmp_path, max_bytes=10_000)
    outbox.put("labels", bytes(20_000))
    outbox.put("labels", b"small")
    assert outbox.lost == 1
    assert opened(outbox) == [(2, "labels", b"small")]


def test_what_cannot_be_right_is_refused(tmp_path: Path) -> None:
    outbox = outbox_of(tmp_path)
    with pytest.raises(InputError, match="no 'gossip'"):
        outbox.put("gossip", b"")
    with pytest.raises(InputError, match="at most"):
        outbox.put("labels", bytes(MAX_MESSAGE))
    assert opened(outbox) == []
