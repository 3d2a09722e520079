"""Requests that could not run at once, told by window of time: differences of counts that only rise.

A window in which nothing had to wait has no row.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from skerry_edge.observe.arrow import pack
from skerry_edge.observe.span import Span
from skerry_shared import telemetry

Sink = Callable[[str, bytes], None]  # (table, packed rows)
Model = tuple[str, int]  # workload and release


class Load(Protocol):
    """Counts of one model since the process started; see ``infer.scheduler``."""

    @property
    def waited(self) -> int: ...  # noqa: D102
    @property
    def shared(self) -> int: ...  # noqa: D102
    @property
    def shed(self) -> int: ...  # noqa: D102
    @property
    def expired(self) -> int: ...  # noqa: D102


class LoadLog:
    """Tells the sink of each window in which there was anything to tell. One thread at a time."""

    def __init__(
        self, loads: Callable[[], Mapping[Model, Load]], refused: Callable[[], int], sink: Sink, span: Span,
    ) -> None:  # fmt: skip
        """``refused`` counts connections that servers turned away; ``span`` says when a window is over."""
        self._loads, self._refused, self._sink, self._span = loads, refused, sink, span
        self._told = dict[Model, tuple[int, ...]]()

    def tick(self) -> None:
        """Tell of the window if it is over. Call it about once a second."""
        if self._span.over:
            self.flush()

    def flush(self) -> None:
        """Tell of the window so far, and begin the next one."""
        (start, end), counts = self._span.next(), self._counts()
        fresh = {model: _less(count, self._told.get(model)) for model, count in counts.items()}
        self._told = counts
        rows = [(*model, start, end, *count) for model, count in sorted(fresh.items()) if any(count)]
        if rows:
            self._sink("load", pack("load", _columns(rows)))

    def _counts(self) -> dict[Model, tuple[int, ...]]:
        servers: dict[Model, tuple[int, ...]] = {("", 0): (0, 0, 0, 0, self._refused())}
        loads = self._loads().items()
        return servers | {model: (load.waited, load.shared, load.shed, load.expired, 0) for model, load in loads}


def _less(count: tuple[int, ...], told: tuple[int, ...] | None) -> tuple[int, ...]:
    return tuple(now - before for now, before in zip(count, told or (0,) * len(count), strict=True))


def _columns(rows: Iterable[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return dict(zip(telemetry.TABLES["load"], map(list, zip(*rows, strict=True)), strict=True))
