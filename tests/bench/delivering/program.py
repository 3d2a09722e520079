"""A child process that can be killed and started again."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


class Program:
    """Every line that it prints is kept."""

    def __init__(self, folder: Path, *command: object) -> None:
        """``folder`` is where it is started."""
        self.lines: list[str] = []
        self._folder, self._command = folder, [*map(str, command)]
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Start it (again)."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command, cwd=self._folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        self._reader = asyncio.create_task(self._read())

    def freeze(self) -> None:
        """Let it do nothing more, if it lives: no thread of it comes back from what it asked of the kernel."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self._process.pid}/task")
        while any(map(_is_running, tasks.glob("*"))):
            time.sleep(0.001)

    async def kill(self) -> None:
        """SIGKILL, if it lives."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader

    async def until(self, words: str) -> None:
        """Wait until this run has printed a line that ends so. Raises RuntimeError if it ends before."""
        start = len(self.lines)
        while not any(line.endswith(words) for line in self.lines[start:]):
            if self._reader.done():
                raise RuntimeError(f"ended before {words!r}: {' | '.join(self.lines[-20:])}")
            self._changed.clear()
            change = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait({self._reader, change}, return_when="FIRST_COMPLETED")
            change.cancel()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode(errors="replace").strip())
            self._changed.set()


def _is_running(task: Path) -> bool:
    try:
        return "(running)" in (task / "status").read_text().partition("State:")[2].partition("\n")[0]
    except (FileNotFoundError, ProcessLookupError):  # it ended
        return False


@asynccontextmanager
async def running(program: Program) -> AsyncIterator[Program]:
    """Killed at the end."""
    await program.start()
    try:
        yield program
    finally:
        await program.kill()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port
