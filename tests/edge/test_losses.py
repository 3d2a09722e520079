import json
from collections import Counter
from pathlib import Path

import pytest

from skerry_edge.observe.arrow import decode
from skerry_edge.observe.losses import LossLog, stored
from skerry_edge.observe.outbox import Loss
from skerry_edge.observe.span import Span
from skerry_shared import telemetry

pytestmark = pytest.mark.arm64

BOUND, DISK = Loss("metrics", "bound"), Loss("labels", "disk")


class Device:
    """Whose agent starts again and again."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = path, 0.0
        self.told: list[tuple[float, str, str, int]] = []
        self.start()

    def start(self) -> None:
        clock = lambda: self.now  # noqa: E731
        self.lost = Counter[Loss]()
        self.log = LossLog(self.path, self.lost, self._sink, Span(60, clock, clock))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.log.tick()

    def _sink(self, table: str, payload: bytes) -> None:
        assert table == "losses"
        self.told += list(zip(*decode(table, telemetry.unpack(payload)).values(), strict=True))


def test_losses_are_kept_at_once_and_told_once_a_window(tmp_path: Path) -> None:
    device = Device(tmp_path / "losses")
    device.wait(60)
    assert device.told == [] and not device.path.exists()
    device.lost[BOUND] += 3
    device.wait(1)
    assert stored(device.path) == {BOUND: 3} and device.told == []
    device.lost[BOUND] += 1
    device.lost[DISK] += 2
    device.wait(59)
    assert device.told == [(120, "labels", "disk", 2), (120, "metrics", "bound", 4)]
    device.wait(60)
    assert len(device.told) == 2


def test_counts_go_on_after_a_restart(tmp_path: Path) -> None:
    device = Device(tmp_path / "losses")
    device.lost[BOUND] += 3
    device.wait(1)  # and then it is killed: the window was not told
    device.start()
    device.lost[BOUND] += 2
    device.log.flush()
    assert device.told == [(1, "metrics", "bound", 5)]


@pytest.mark.parametrize("damage", [b"", b"{", b"3", json.dumps([["x"]]).encode()])
def test_a_damaged_file_counts_as_none(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "losses").write_bytes(damage)
    assert stored(tmp_path / "losses") == {}


def test_a_file_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    device = Device(tmp_path / "later" / "losses")
    device.lost[BOUND] += 3
    device.wait(1)
    (tmp_path / "later").mkdir()
    device.wait(1)
    assert stored(device.path) == {BOUND: 3}
