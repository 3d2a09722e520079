"""Windows of time, one after the other, whatever the clock does meanwhile."""

import time
from collections.abc import Callable


class Span:
    """How long a window lasts is measured by a timer that is never set; the clock says only when it ended."""

    def __init__(
        self, seconds: float, clock: Callable[[], float] = time.time, timer: Callable[[], float] = time.monotonic
    ) -> None:
        """``clock`` gives Unix seconds, ``timer`` seconds from any moment on. The first window begins now."""
        self.seconds, self.clock, self.timer = seconds, clock, timer
        self._opened = timer()

    @property
    def lasted(self) -> float:
        """Seconds since the window began."""
        return self.timer() - self._opened

    @property
    def over(self) -> bool:
        """Has the window lasted its time?"""
        return self.lasted >= self.seconds

    def next(self) -> tuple[float, float]:
        """Start and end of the window so far, in Unix seconds by the clock as it is now; the next one begins."""
        now, end = self.timer(), self.clock()
        opened, self._opened = self._opened, now
        return max(0.0, end - (now - opened)), end
