"""Mosquitto as a child process of the cloud, where the binary is found: the embedded broker.

Its configuration is generated, and strict: TLS 1.3, a certificate of the fleet's authority for every client, user name
and client id are the certificate's common name (else a device could take over another's session), and access rules by
that name. Nothing is persisted: devices keep what the cloud has not acknowledged, the cloud keeps assignments.

A broker that ends by itself is started again, later and later if it keeps ending; devices and cloud dial again.
"""

import asyncio
import contextlib
import logging
import os
import pwd
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from skerry_shared.errors import NotFoundError, SkerryError, StateError
from skerry_shared.files import write_durably
from skerry_shared.mqtt import CLOUD, DESIRED, presence, topic, worker
from skerry_shared.ports.carrier import MAX_MESSAGE, TlsFiles

log = logging.getLogger(__name__)

SYSTEM = "/usr/sbin/mosquitto"  # Debian's place, which is not in a user's PATH
RUNNING = b" running"  # how Mosquitto ends the line that says it accepts connections
START = 10.0  # seconds until it must have said so
END = 2.0  # seconds until it must have ended; it forgets a signal that comes just as it begins to serve
RESTART = (0.5, 60.0)  # seconds, first and longest wait before a broker is started again
STEADY = 60.0  # seconds after which a broker counts as one that works
LINE = 1 << 20  # bytes of a line of its log: above all that a client can make it say
TOPIC = 1024  # bytes around a message, at most


def found() -> Path | None:
    """The Mosquitto of this machine, if there is one."""
    path = shutil.which("mosquitto") or shutil.which(SYSTEM)
    return Path(path) if path else None


@asynccontextmanager
async def run_mosquitto(
    folder: Path, port: int, fleet: str, identity: TlsFiles, host: str = "127.0.0.1", workers: int = 0
) -> AsyncIterator[None]:
    """Serve ``fleet`` at ``host``:``port`` while the context is open; ``identity`` holds the server's certificate.

    So many ``workers`` may ingest beside the server.

    ``folder`` (created if missing) takes the configuration. The broker dies with this process, however that dies, and
    is started again if it ends by itself.
    Raises NotFoundError without a binary, StateError if the broker does not start.
    """
    binary = found()
    if binary is None:
        raise NotFoundError("mosquitto: not installed; `apt install mosquitto`, or use gRPC")
    config = _configure(folder, host, port, fleet, identity, workers)
    broker = _Broker([*_dying_with_us(), str(binary), "-c", str(config)])
    try:
        await broker.start()
        keeper = asyncio.ensure_future(broker.keep())
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
    finally:
        await broker.stop()


class _Broker:
    """The child process, and the one after it."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Return once it accepts connections. Raises StateError; then ``stop`` is still needed."""
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._command, stderr=pipe, limit=LINE)
        assert self._process.stderr is not None
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watch = asyncio.ensure_future(_watch(self._process.stderr, started))
        await asyncio.wait({started}, timeout=START)
        if not started.done():
            raise StateError(f"mosquitto did not start within {START:g} s")
        started.result()

    async def keep(self) -> NoReturn:
        """Start it again whenever it has ended, until cancelled."""
        wait = RESTART[0]
        while True:
            since = time.monotonic()
            code = await self._ended()
            wait = RESTART[0] if time.monotonic() - since >= STEADY else wait
            log.error("mosquitto ended by itself, exit code %s; starting it again in %g s", code, wait)
            await asyncio.sleep(wait)
            wait = min(2 * wait, RESTART[1])
            try:
                await self.start()
            except (SkerryError, OSError) as error:
                log.error("%s", error)
                await self.stop()

    async def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None and self._process.returncode is None:
            ending = asyncio.ensure_future(self._process.wait())
            for signal in (self._process.terminate, self._process.kill):
                with contextlib.suppress(ProcessLookupError):  # it ended just now
                    signal()
                if (await asyncio.wait({ending}, timeout=END))[0]:
                    break
        await self._ended()

    async def _ended(self) -> int | None:
        code = await self._process.wait() if self._process is not None else None
        if self._watch is not None:
            await asyncio.gather(self._watch, return_exceptions=True)
        return code


def _configure(folder: Path, host: str, port: int, fleet: str, identity: TlsFiles, workers: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rules, config = folder / "access.acl", folder / "mosquitto.conf"
    write_durably(rules, _access_rules(fleet, workers).encode(), 0o600)
    write_durably(config, _configuration(host, port, rules, identity).encode(), 0o600)
    return config


def _access_rules(fleet: str, workers: int) -> str:
    ingest = "".join(_rules_of_worker(fleet, worker(number)) for number in range(1, workers + 1))
    return f"""user {CLOUD}
topic readwrite {topic(fleet, "+", "#")}
{ingest}
pattern write {topic(fleet, "%u", "up/+")}
pattern write {topic(fleet, "%u", "status")}
pattern read {topic(fleet, "%u", "ack")}
pattern read {topic(fleet, "%u", DESIRED)}
"""


def _rules_of_worker(fleet: str, name: str) -> str:
    return f"""
user {name}
topic read {topic(fleet, "+", "up/+")}
topic read {topic(fleet, "+", "status")}
topic read {presence(fleet, "+")}
topic write {presence(fleet, name)}
topic write {topic(fleet, "+", "ack")}
"""


def _configuration(host: str, port: int, rules: Path, identity: TlsFiles) -> str:
    return f"""listener {port} {host}
cafile {identity.authority.resolve()}
certfile {identity.certificate.resolve()}
keyfile {identity.key.resolve()}
tls_version tlsv1.3
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file {rules.resolve()}
max_queued_messages 0
max_inflight_messages 200
max_packet_size {MAX_MESSAGE + TOPIC}
persistence false
user {pwd.getpwuid(os.geteuid()).pw_name}
log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
"""


def _dying_with_us() -> list[str]:
    setpriv = shutil.which("setpriv")  # util-linux; without it only an orderly end stops the broker
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


async def _watch(stderr: asyncio.StreamReader, started: "asyncio.Future[None]") -> None:
    last: deque[str] = deque(maxlen=5)
    async for line in stderr:
        last.append(line.decode(errors="replace").strip())
        log.debug("mosquitto: %s", last[-1])
        if line.rstrip().endswith(RUNNING) and not started.done():
            started.set_result(None)
    if not started.done():
        started.set_exception(StateError(f"mosquitto did not start: {'; '.join(last)}"))
