"""A device that is away for a month, or whose disk is full: what it keeps, what it gives up, and that it comes back."""

import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skerry_edge.config import AgentConfig
from skerry_edge.observe.arrow import encode
from skerry_edge.observe.outbox import Loss, Outbox
from skerry_edge.observe.uplink import BURST_S, Pace
from skerry_shared import latency, windows, wire
from skerry_shared.identity import Authority, new_key, request
from skerry_shared.sealing import IngestKey, Sealer
from skerry_shared.telemetry import TABLES, Header, Up, pack

NOW = datetime.now(timezone.utc)
AUTHORITY, KEY, INGEST = Authority.new("north", NOW), new_key(), IngestKey.new()
CERTIFICATE = AUTHORITY.sign_request(request("a", KEY), "a", NOW, 1)
DAY_S = 86_400


def outbox_of(folder: Path, max_bytes: int) -> Outbox:
    return Outbox(folder, max_bytes, lambda: Sealer("north", "a", CERTIFICATE, KEY, INGEST.public_bytes()))


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A month has 43,200 windows, and nobody cuts the power here."""
    monkeypatch.setattr(os, "fdatasync", lambda _: None)


def window(minute: int, rng: np.random.Generator) -> bytes:
    """22 channels of 60 values in 16 bins."""
    counts = windows.pack([*rng.multinomial(60, [1 / 16] * 16, 22)])
    columns: dict[str, Any] = {"workload": ["turbine"], "release": [3], "start": [minute * 60.0],
               "end": [minute * 60.0 + 60], "packed": [counts]}  # fmt: skip
    return pack(encode("windows", columns))


def service(minute: int, rng: np.random.Generator) -> bytes:
    """One model, which ran once a second."""
    counts = latency.count(0.002 * rng.lognormal(sigma=0.5, size=60))
    columns: dict[str, Any] = {"workload": ["turbine"], "release": [3], "start": [minute * 60.0],
               "end": [minute * 60.0 + 60], "answered": [60], "errors": [0], "latency": [counts],
               "hottest_c": [40 + 20 * rng.random()], "throttled_s": [0.0], "power_mode": ["MAXN"]}  # fmt: skip
    return pack(encode("service", columns))


def rows(table: str, count: int, day: int) -> bytes:
    """Some rows that do not compress away."""
    values: dict[str, Callable[[int], Any]] = {
        "string": lambda i: os.urandom(12).hex(), "int64": lambda i: i, "float64": lambda i: day + i / 1000,
              "binary": lambda _: os.urandom(120)}  # fmt: skip
    return pack(encode(table, {name: [values[kind](i) for i in range(count)] for name, kind in TABLES[table].items()}))


@pytest.mark.usefixtures("no_fsync")
def test_thirty_days_offline_fit_into_the_default_bound(tmp_path: Path) -> None:
    """One model at one prediction a second: a window a minute, all samples that may go, 2,000 labels, 20 events a day.

    Three days into a tenth of the bound are the same and quicker.
    """
    config = AgentConfig("f", "d", "p", "https://r", "g:1")
    outbox, rng = outbox_of(tmp_path, (config.spool_mb << 20) // 10), np.random.default_rng(0)
    metrics = [(window(minute, rng), service(minute, rng)) for minute in range(60)]
    for hour in range(3 * 24):
        for counted, served in metrics:
            outbox.put("windows", counted)
            outbox.put("service", served)
        samples = rows("samples", 60, hour)
        for _ in range(int(config.sample_mb_day * 1e6 / 24 / len(samples))):
            outbox.put("samples", samples)
        outbox.put("labels", rows("labels", 83, hour))
        outbox.put("events", rows("events", 1, hour))
    assert sum(outbox.sizes().values()) <= (config.spool_mb << 20) // 10
    assert not outbox.lost
    outbox.close()


def test_what_waited_comes_home_at_the_stated_rate() -> None:
    pace, now, sent = Pace(1024 * 125), 0.0, 0
    while now < 3600:
        now += pace.delay(now)
        pace.spend(20_000, now)
        sent += 20_000
    assert 3600 * 128_000 <= sent <= (3600 + BURST_S) * 128_000 + 20_000


def test_what_is_told_as_it_happens_does_not_wait() -> None:
    pace = Pace(1024 * 125)
    for second in range(100):
        assert pace.delay(float(second)) == 0
        pace.spend(100_000, float(second))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tiny", folder], check=False).returncode:
        pytest.skip("may not mount here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_costs_what_comes_meanwhile_and_nothing_else(tiny_disk: Path) -> None:
    outbox = outbox_of(tiny_disk / "spool", 64 << 20)
    outbox.put("labels", b"before")
    fill(tiny_disk / "others")
    for _ in range(5):
        outbox.put("labels", os.urandom(8_000))
    assert outbox.lost == {Loss("labels", "disk"): 5}
    (tiny_disk / "others").unlink()
    outbox.put("labels", b"after")
    outbox.put("windows", b"after")
    assert outbox.lost == {Loss("labels", "disk"): 5}
    outbox.close()
    again = outbox_of(tiny_disk / "spool", 64 << 20)
    assert waiting(again) == ["labels", "labels", "metrics"]
    again.close()


def test_an_agent_can_start_on_a_full_disk(tiny_disk: Path) -> None:
    fill(tiny_disk / "others")
    outbox = outbox_of(tiny_disk / "spool", 64 << 20)
    outbox.put("labels", os.urandom(8_000))
    assert outbox.lost == {Loss("labels", "disk"): 1}
    (tiny_disk / "others").unlink()
    outbox.put("labels", b"after")
    assert waiting(outbox) == ["labels"]
    outbox.close()


def fill(path: Path) -> None:
    """Until the file system has no room left."""
    with pytest.raises(OSError, match="No space left"), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def waiting(outbox: Outbox) -> list[str]:
    """The class of each batch."""
    found, reader = [], outbox.reader()
    kinds = {"labels": "labels", "windows": "metrics"}
    while record := reader.next():
        up = wire.decode(Up, record.up)
        if up.batch:
            found.append(kinds[wire.decode(Header, up.batch.header).table])
    return found
