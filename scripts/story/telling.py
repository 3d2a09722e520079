"""One telling of the story: who plays, what happened so far, and ways to wait for what happens next."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.adapters import mosquitto
from skerry_cloud.api_client import CloudClient
from story.show import Show
from story.stage import App, BrokenError, Event, News, Stage

if TYPE_CHECKING:
    from skerry_cloud.workloads.digits import Digits
    from skerry_cloud.workloads.fashion import Fashion

    Problem = Digits | Fashion

PROFILES = {"edge-1": "generic-x86-64", "edge-2": "generic-x86-64", "edge-3": "industrial-pc"}
WAYS = {"edge-1": "oip", "edge-2": "oip", "edge-3": "in-process"}
DRIFT = {"edge-1": "smeared", "edge-2": "dim"}
CLEAR = dict.fromkeys(PROFILES, "clear")
BEFORE, DURING, AFTER = PHASES = ("before drift", "during drift", "after recovery")
PATIENCE = 60.0  # seconds for what should take a few
AGENT = {
    "window_s": 2.0, "sample_rate": 0.5, "sample_mb_day": 10_000.0, "health.proving_answers": 40,
    "health.proving_s": 60.0,
}  # fmt: skip


@dataclass(frozen=True)
class Script:
    """How large the story is."""

    workload: str
    epochs: int
    copies: int  # how often the field's pictures are shown, each time with fresh noise
    answers: int  # of each device in each phase, at least
    min_labels: int
    floor: float  # accuracy that a trained model must reach on held-out data


LONG = Script("fashion", epochs=4, copies=1, answers=600, min_labels=700, floor=0.86)
SHORT = Script("digits", epochs=12, copies=6, answers=300, min_labels=500, floor=0.9)
TINY = Script("digits", epochs=4, copies=6, answers=60, min_labels=240, floor=0.8)


@dataclass
class Telling:
    """``transport``: "mixed" (MQTT for two devices, gRPC for the third), "mqtt" or "grpc"."""

    show: Show
    stage: Stage
    script: Script
    transport: str
    apps: dict[str, App] = field(default_factory=dict)
    accuracy: dict[str, dict[str, float]] = field(default_factory=lambda: {name: {} for name in PROFILES})

    cloud: CloudClient = field(init=False)
    news: News = field(init=False)

    @property
    def workload(self) -> str:
        """Its name."""
        return self.script.workload

    @cached_property
    def problem(self) -> "Problem":
        """The workload itself. Loads torch: ask while the cloud starts."""
        from skerry_cloud import workloads

        return cast("Problem", workloads.load(self.workload, self.stage.folder))

    @property
    def has_mqtt(self) -> bool:
        """Whether there is a broker in this telling."""
        return self.transport != "grpc" and mosquitto.found() is not None

    def transports(self, device: str) -> list[str]:
        """How this device reaches the cloud."""
        over_mqtt = self.has_mqtt and (device != "edge-3" or self.transport == "mqtt")
        return ["mqtt", "grpc"] if over_mqtt else ["grpc"]

    def event(self, what: str, holds: Callable[[Event], bool], seconds: float = PATIENCE, after: int = 0) -> Event:
        """Wait for an event, showing that we do."""
        with self.show.waiting(what):
            return self.news.wait(what, seconds, holds, after)

    def start_rollout(self, release: int) -> int:
        """Start a rollout with one canary; its number."""
        asked = {"workload": self.workload, "release": release, "canary": 1, "wave_seconds": 2 * PATIENCE}
        number: int = self.cloud.post("/rollouts", **asked)["id"]
        return number

    def end_of_rollout(self, number: int) -> dict[str, Any]:
        """Wait until it is done or halted; what became of it."""
        self.event(f"rollout {number}", matching("rollout", f"{number} ", ("done", "halted")), 3 * PATIENCE)
        found: dict[str, Any] = self.cloud.get(f"/rollouts/{number}")
        return found

    def updates(self, release: int) -> list[Event]:
        """What devices said about taking in a release, in order."""
        name = f"{self.workload}/{release}"
        return [event for event in self.news.events if event["kind"] == "update" and event["name"].endswith(f" {name}")]

    def measure(self, phase: str, release: int, weather: Mapping[str, str]) -> None:
        """Wait until every device has answered often enough in this weather, and note how often it was right."""
        for name, kind in weather.items():
            with self.show.waiting(f"{name}: {self.script.answers} answers"):
                self.apps[name].wait(kind, release, self.script.answers, 2 * PATIENCE)
            self.accuracy[name][phase] = self.apps[name].accuracy(kind, release)
        self.stage.alive()

    def field(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Pictures that no dataset version holds, and what they are."""
        examples = self.problem.field()
        return np.tile(examples.inputs, (self.script.copies, 1, 1)), np.tile(examples.labels, self.script.copies)


def matching(kind: str, name: str = "", after: tuple[str, ...] = (), actor: str = "") -> Callable[[Event], bool]:
    """Events of this kind whose name begins or ends like this, that lead to one of these states, by this actor."""

    def holds(event: Event) -> bool:
        named = event["name"].startswith(name) or event["name"].endswith(name)
        return bool(
            event["kind"] == kind and named and (not after or event["after"] in after)
            and (not actor or event["actor"] == actor)
        )  # fmt: skip

    return holds


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Look until it holds: for what no event tells. Raises BrokenError when it does not in time."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise BrokenError(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.2)
