from typing import Any

from skerry_edge.infer.scheduler import Load
from skerry_edge.observe.arrow import decode
from skerry_edge.observe.load import LoadLog
from skerry_edge.observe.span import Span
from skerry_shared import telemetry


class World:
    def __init__(self) -> None:
        self.now, self.refused, self.told = 100.0, 0, list[dict[str, list[Any]]]()
        self.loads = {("tiny", 1): Load()}
        now = lambda: self.now  # noqa: E731
        self.log = LoadLog(lambda: self.loads, lambda: self.refused, self._sink, Span(60.0, now, now))

    def _sink(self, table: str, payload: bytes) -> None:
        assert table == "load"
        self.told.append(decode(table, telemetry.unpack(payload)))


def test_a_window_tells_what_rose_in_it() -> None:
    world = World()
    world.loads["tiny", 1].waited = 5
    world.loads["tiny", 1].shed = 2
    world.refused = 3
    world.now = 159.0
    world.log.tick()
    assert world.told == []
    world.now = 160.0
    world.log.tick()
    assert world.told.pop() == {
        "workload": ["", "tiny"], "release": [0, 1], "start": [100.0, 100.0], "end": [160.0, 160.0],
        "waited": [0, 5], "shared": [0, 0], "shed": [0, 2], "expired": [0, 0], "refused": [3, 0],
    }  # fmt: skip
    world.loads["tiny", 1].waited = 6
    world.loads["ear", 1] = Load(expired=1)
    world.now = 220.0
    world.log.tick()
    (told,) = world.told
    assert (told["workload"], told["start"]) == (["ear", "tiny"], [160.0, 160.0])
    assert (told["waited"], told["expired"]) == ([0, 1], [1, 0])


def test_a_quiet_window_tells_nothing_and_the_end_tells_the_rest() -> None:
    world = World()
    world.now = 300.0
    world.log.tick()
    world.loads["tiny", 1].expired = 1
    world.log.flush()
    world.log.flush()
    assert [told["expired"] for told in world.told] == [[1]]
