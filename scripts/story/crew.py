"""Processes that leave with us: whatever ends this program, none of them stays behind."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL


class Crew:
    """Starts programs and stops them all, last first. Each one's output goes to a log of its own."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, *command: str | Path, stdin: int = subprocess.DEVNULL, stdout: int | None = None,
              environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:  # fmt: skip
        """Start ``command``; its standard error, and output unless ``stdout`` says otherwise, go to ``name``.log."""
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command], stdin=stdin, stdout=log if stdout is None else stdout, stderr=log,
                start_new_session=True, preexec_fn=_leave_with_parent, env=os.environ | (environment or {}),
            )  # fmt: skip
        self._processes[name] = process
        return process

    def stop(self, name: str) -> None:
        """Ask it to end, then make it."""
        process = self._processes.pop(name)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def dead(self) -> list[str]:
        """Names of those that ended by themselves."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def log(self, name: str) -> str:
        """The last lines that a program wrote."""
        return "\n".join((self._logs / f"{name}.log").read_text(errors="replace").splitlines()[-15:])

    def __enter__(self) -> "Crew":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self._processes)):
            self.stop(name)


def run(
    *command: Sequence[str] | str | Path, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end; standard output and error as text."""
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | (environment or {}),
    )


def _leave_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
