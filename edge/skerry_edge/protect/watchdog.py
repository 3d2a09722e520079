"""The supervisor hears that all is well only while every part of the agent shows a pulse.

A part beats whenever it comes round. One that hangs for longer than it may silences the watchdog, and systemd, which
hears nothing, kills the process and starts it again; where the threads stood is in the log then.
"""

import faulthandler
import logging
import threading
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

PERIOD_S = 5.0  # between looks where no supervisor asks for more


def stalled(beats: Mapping[str, float], limits: Mapping[str, float], now: float) -> list[str]:
    """The parts whose last beat is longer ago than their limit, all in seconds of one clock. Pure."""
    return sorted(part for part, limit in limits.items() if now - beats[part] > limit)


class Watchdog:
    """A thread that looks after the others. Any thread may ``beat``."""

    def __init__(
        self, limits: Mapping[str, float], tell: Callable[[], object], timer: Callable[[], float], period_s: float
    ) -> None:
        """``limits``: seconds that each part may take between two beats; ``tell`` is called while all do."""
        self._limits, self._tell, self._timer, self._period_s = limits, tell, timer, period_s
        self._beats = dict.fromkeys(limits, timer())
        self._said: list[str] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def expect(self, part: str, limit_s: float) -> None:
        """From now on this part beats too, every ``limit_s`` seconds at least."""
        self._beats[part] = self._timer()
        self._limits = {**self._limits, part: limit_s}

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def beat(self, part: str) -> None:
        """This part is alive."""
        self._beats[part] = self._timer()

    def look(self) -> list[str]:
        """Tell the supervisor if all are alive, else name those that hang; the first time in the log too."""
        found = stalled(self._beats, self._limits, self._timer())
        if not found:
            self._tell()
        elif found != self._said:
            log.critical("%s: no sign of life; the supervisor is not told that all is well", ", ".join(found))
            faulthandler.dump_traceback()
        self._said = found
        return found

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self._period_s):
            self.look()
