"""The stage: one cloud, its devices and their applications, as processes of their own on loopback."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skerry_cloud.api_client import CloudClient
from skerry_shared.errors import LinkError
from story.crew import Crew, run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BIN = Path(sys.executable).parent
Event = dict[str, Any]


class BrokenError(Exception):
    """A step of the story did not hold."""


class News:
    """The cloud's events as they happen, and a way to wait for one."""

    def __init__(self, cloud: CloudClient) -> None:
        self.events: list[Event] = []
        self._cloud, self._changed = cloud, threading.Condition()
        threading.Thread(target=self._follow, daemon=True).start()

    def wait(self, what: str, seconds: float, holds: Callable[[Event], bool], after: int = 0) -> Event:
        """The first event after id ``after`` for which ``holds``. Raises BrokenError when it does not come in time."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for event in self.events:
                    if event["id"] > after and holds(event):
                        return event
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise BrokenError(
                        f"waited {seconds:.0f} s in vain for {what}; what happened last:\n{self._latest()}"
                    )

    @property
    def last(self) -> int:
        """Id of the newest event."""
        return self.events[-1]["id"] if self.events else 0

    def _latest(self) -> str:
        words = ([event["kind"], event["name"], event["after"], event["reason"]] for event in self.events[-12:])
        return "\n".join(" · ".join(filter(None, line)) for line in words)

    def _follow(self) -> None:
        try:
            for event in self._cloud.lines("/events?follow=1"):
                with self._changed:
                    self.events.append(event)
                    self._changed.notify_all()
        except LinkError:
            return  # the story is over


class App:
    """An application's process; adds up its answers by weather and release."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process, self._changed = process, threading.Condition()
        self._ended = False
        self.answers: Counter[tuple[str, int]] = Counter()
        self.right: Counter[tuple[str, int]] = Counter()
        threading.Thread(target=self._listen, daemon=True).start()

    def weather(self, name: str) -> None:
        """Show pictures in this weather from now on."""
        assert self._process.stdin
        self._process.stdin.write(f"{name}\n".encode())
        self._process.stdin.flush()

    def wait(self, weather: str, release: int, count: int, seconds: float) -> None:
        """Until there are ``count`` answers. Raises BrokenError when they do not come in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self.answers[weather, release] >= count, seconds)
            if (had := self.answers[weather, release]) < count:
                why = "the application ended" if self._ended else f"{seconds:.0f} s are over"
                raise BrokenError(f"{had} of {count} answers of release {release}, and {why}")

    def accuracy(self, weather: str, release: int) -> float:
        """Share of right answers."""
        return self.right[weather, release] / max(1, self.answers[weather, release])

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            said = json.loads(line)
            with self._changed:
                key = said["weather"], said["release"]
                self.answers[key] += said["answers"]
                self.right[key] += said["right"]
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Stage:
    """Builds and runs it all below one folder."""

    def __init__(self, folder: Path, crew: Crew, mqtt: bool) -> None:
        """``mqtt``: start a broker where it is installed."""
        self.folder, self._crew, self._mqtt = folder, crew, mqtt
        self.cloud_folder = folder / "cloud"
        self.operator = self.cloud_folder / "operator.toml"

    def init_cloud(self, policy: dict[str, Any]) -> None:
        """A new fleet on free ports, retraining by ``policy``."""
        ports = free_ports(3)
        done = run(BIN / "skerry-cloud", "init", self.cloud_folder, "--fleet", "demo", "--https-port", str(ports[0]),
                   "--grpc-port", str(ports[1]), "--mqtt-port", str(ports[2]))  # fmt: skip
        if done.returncode:
            raise BrokenError(done.stderr)
        self.url, self.mqtt_port = f"https://localhost:{ports[0]}", ports[2]
        edit_toml(self.cloud_folder / "skerry-cloud.toml", {"listen.mqtt": self._mqtt} | policy)

    def start_cloud(self) -> CloudClient:
        """Start it and wait until it says that it serves."""
        process = self._crew.start(
            "cloud", BIN / "skerry-cloud", "serve", self.cloud_folder, stdout=subprocess.PIPE,
            environment={"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self.cloud_pid = process.pid
        assert process.stdout
        if b"is served" not in process.stdout.readline():
            raise BrokenError(f"the cloud did not start:\n{self._crew.log('cloud')}")
        return CloudClient(self.operator)

    def device(self, name: str) -> Path:
        """A device's folder."""
        return self.folder / name

    def enroll(self, name: str, token: str, folder: str = "") -> "subprocess.CompletedProcess[str]":
        """`skerry-agent enroll` on the device, or in another folder."""
        command = ("enroll", "--cloud", self.url, "--token", token, "--name", name, self.device(folder or name))
        return run(BIN / "skerry-agent", *command)

    def start_agent(self, name: str, settings: dict[str, Any]) -> None:
        """Run the device's agent with these settings."""
        edit_toml(self.device(name) / "agent.toml", settings)
        self._crew.start(name, BIN / "skerry-agent", "run", self.device(name))

    def start_app(self, name: str, workload: str, pictures: Path, way: str) -> App:
        """Run an application on the device."""
        process = self._crew.start(
            f"{name}-app", sys.executable, "-m", "story.app", self.device(name), pictures, "--way", way,
            "--workload", workload, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return App(process)

    def alive(self) -> None:
        """Raises BrokenError if a process ended by itself."""
        for name in self._crew.dead():
            raise BrokenError(f"{name} ended by itself:\n{self._crew.log(name)}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def edit_toml(path: Path, settings: dict[str, Any]) -> None:
    """Set keys ("key" or "table.key") of a TOML file of plain values."""
    document: dict[str, Any] = tomllib.loads(path.read_text())
    for key, value in settings.items():
        table, _, name = key.rpartition(".")
        (document.setdefault(table, {}) if table else document)[name] = value
    lines = _toml({key: value for key, value in document.items() if not isinstance(value, dict)})
    for name, content in document.items():
        if isinstance(content, dict):
            lines += ["", f"[{name}]", *_toml(content)]
    path.write_text("\n".join(lines) + "\n")


def _toml(values: dict[str, Any]) -> list[str]:
    """Lines for plain values: for these JSON's form is TOML's."""
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]
