"""README's ten minutes, word for word: its files are written, its commands run in order, what they say is checked."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from story.stage import free_ports

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCK = re.compile(
    r"Save this as `(?P<file>[^`]+)`:\n\n```python\n(?P<code>.*?)```|```console\n(?P<commands>.*?)```", re.S
)
PORTS = ("8443", "8444", "8883")


class Terminal:
    """A shell in a folder; what it starts in the background is ended with it."""

    def __init__(self, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self.folder, self.background = folder, list[subprocess.Popen[str]]()

    def run(self, command: str) -> str:
        if command.endswith("&"):
            return self._start(command[:-1])
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=90,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _start(self, command: str) -> str:
        """Start it, and read on until it says that it is ready."""
        process = subprocess.Popen(
            f"exec {command}", shell=True, cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.background.append(process)
        assert process.stdout
        for line in process.stdout:
            if "is served" in line or "linked over" in line:
                return line
        raise AssertionError(f"$ {command} ended")

    def close(self) -> None:
        for process in reversed(self.background):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal(tmp_path)
    yield found
    found.close()


@pytest.mark.timeout(240)
def test_the_ten_minutes(terminal: Terminal) -> None:
    ports = dict(zip(PORTS, map(str, free_ports(3)), strict=True))
    names = ("--https-port", "--grpc-port", "--mqtt-port")
    flags = "".join(f" {name} {free}" for name, free in zip(names, ports.values(), strict=True))
    said: dict[str, str] = {}
    for block in BLOCK.finditer(README):
        if block["file"]:
            (terminal.folder / block["file"]).write_text(block["code"])
            continue
        for line in block["commands"].splitlines():
            command = line.removeprefix("$ ").replace(":8443", f":{ports['8443']}")
            said[line] = terminal.run(command + (flags if command == "skerry-cloud init" else ""))
    assert "cells@1: 569 rows" in said["$ skerry data add cells"]
    assert "int8" in said["$ skerry compress 1 --profile generic-x86-64"]
    assert said["$ python predict.py"].startswith("1 [[")
    assert "569 rows" in said["$ skerry infer cells/1 --batch rows.parquet answers"]
    assert "cells release 1" in said["$ skerry-agent status ./pump-7"]
    assert "FAIL" not in said["$ skerry-agent doctor ./pump-7"]
    assert "pump-7" in said["$ skerry telemetry"]
    assert "dataset cells@1" in said["$ skerry release show cells/1 --lineage"]
    assert "healthy" in said["$ skerry events"]


def test_every_command_of_the_operator_is_in_the_help_map() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "skerry"), "--help"], capture_output=True, text=True, check=True
    )
    for command in ("data", "train", "compress", "publish", "rollout", "device", "drift", "release", "run", "events"):
        assert re.search(rf"^│ {command}\b", done.stdout, re.M), command
