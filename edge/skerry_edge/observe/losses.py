"""What this device could not keep, counted since it was enrolled: for `skerry-agent status`, and told to the cloud.

The counts only rise, so a row of table "losses" that is itself lost is made good by the next one.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from skerry_edge.observe.arrow import pack
from skerry_edge.observe.outbox import Loss
from skerry_edge.observe.span import Span
from skerry_shared.files import write_durably

log = logging.getLogger(__name__)

Sink = Callable[[str, bytes], None]  # (table, packed rows)


class LossLog:
    """Keeps the counts in a file, and tells the sink once a window in which they rose. One thread at a time."""

    def __init__(self, path: Path, counts: Mapping[Loss, int], sink: Sink, span: Span) -> None:
        """``counts`` are those of this process; ``span`` says when a window is over."""
        self._path, self._counts, self._sink, self._span = path, counts, sink, span
        self._before = Counter(stored(path))  # of earlier processes
        self._kept = self._told = self._total()

    def tick(self) -> None:
        """Keep what is new, and tell of it if the window is over. Call it about once a second."""
        self._keep()
        if self._span.over:
            self.flush()

    def flush(self) -> None:
        """Keep and tell what is new, and begin the next window."""
        self._keep()
        (_, end), told, self._told = self._span.next(), self._told, self._total()
        if rows := [(*loss, count) for loss, count in sorted(self._told.items()) if count > told[loss]]:
            kinds, reasons, batches = zip(*rows, strict=True)
            columns = {"time": [end] * len(rows), "class": kinds, "reason": reasons, "batches": batches}
            self._sink("losses", pack("losses", columns))

    def _keep(self) -> None:
        total = self._total()
        try:
            if total != self._kept:
                write_durably(self._path, json.dumps([[*loss, count] for loss, count in total.items()]).encode())
            self._kept = total
        except OSError as error:  # a full disk is why there are losses; the next tick tries again
            log.warning("losses: not kept: %s", error)

    def _total(self) -> Counter[Loss]:
        return self._before + Counter(self._counts)


def stored(path: Path) -> dict[Loss, int]:
    """The counts that are kept at ``path``; a damaged file counts as none, for the cloud has them too."""
    try:
        return {Loss(kind, reason): int(count) for kind, reason, count in json.loads(path.read_bytes())}
    except (FileNotFoundError, ValueError, TypeError):
        return {}
