"""What systemd is told, by datagrams to the socket that it names (sd_notify(3)); nothing where it names none."""

import os
import socket
from collections.abc import Mapping

READY, WATCHDOG, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"


class Notifier:
    """Tells the supervisor of this process how it is. Any thread may call it; it never waits and never raises."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        limit = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(limit) / 1e6 if mine and limit.isdecimal() else None  # silence after which it kills us

    def tell(self, *words: str) -> bool:
        """Send assignments like ``READY``. False if nobody listens."""
        if not self._address:
            return False
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as line:
            try:
                line.sendto("\n".join(words).encode(), address)
            except OSError:  # a supervisor that is gone, or whose queue is full, must not take the agent down
                return False
        return True
