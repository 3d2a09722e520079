"""The story, step by step. Each step ends in checks of what really happened; one that fails ends the story."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_cloud.adapters import mosquitto
from skerry_cloud.workloads.digits import Digits
from skerry_cloud.workloads.fashion import Fashion
from skerry_shared import wire
from skerry_shared.identity import Token
from skerry_shared.telemetry import Up
from story import sabotage, tap
from story.show import Show
from story.stage import App, BrokenError, Event, News, Stage
from story.weather import WEATHER

PROFILES = {"edge-1": "generic-x86-64", "edge-2": "generic-x86-64", "edge-3": "industrial-pc"}
WAYS = {"edge-1": "oip", "edge-2": "oip", "edge-3": "in-process"}
DRIFT = {"edge-1": "smeared", "edge-2": "dim"}
PHASES = ("before drift", "during drift", "after recovery")
PATIENCE = 60.0  # seconds for what should take a few


@dataclass(frozen=True)
class Script:
    """How large the story is."""

    workload: type[Fashion] | type[Digits]
    epochs: int
    copies: int  # how often the field's pictures are shown with fresh noise
    answers: int  # of each device in each phase, at least
    min_labels: int
    floor: float  # accuracy that a trained model must reach on held-out data


LONG = Script(Fashion, epochs=4, copies=1, answers=600, min_labels=700, floor=0.86)
SHORT = Script(Digits, epochs=12, copies=6, answers=300, min_labels=500, floor=0.9)
TINY = Script(Digits, epochs=4, copies=6, answers=100, min_labels=300, floor=0.7)

AGENT = {"window_s": 2.0, "sample_rate": 0.5, "health.proving_answers": 40, "health.proving_s": 60.0}


class Story:
    """One telling. Call the steps in order, or ``tell``."""

    def __init__(self, show: Show, stage: Stage, script: Script, transport: str) -> None:
        """``transport``: "mixed" (MQTT for two devices, gRPC for the third), "mqtt" or "grpc"."""
        self.show, self.stage, self.script = show, stage, script
        self.has_mqtt = transport != "grpc" and mosquitto.found() is not None
        self._transport = transport
        self.apps: dict[str, App] = {}
        self.accuracy: dict[str, dict[str, float]] = {name: {} for name in PROFILES}
        self.name = script.workload.name

    def tell(self) -> None:
        """All of it."""
        self.begin()
        self.learn()
        self.enroll()
        self.roll_out()
        self.predict()
        self.report_home()
        self.drift()
        self.retrain()
        self.defend()
        self.end()

    def begin(self) -> None:
        """Start the cloud."""
        show = self.show
        if self._transport != "grpc" and not self.has_mqtt:
            show.say("Mosquitto is not installed: all devices speak gRPC")
        self.stage.init_cloud({
            "retrain.min_labels": self.script.min_labels, "retrain.epochs": 0, "rollouts.wave_minutes": 2.0,
        })  # fmt: skip
        self.cloud = self.stage.start_cloud()
        self.news = News(self.cloud)
        show.say(f"skerry-cloud serves at {self.stage.url}")

    def learn(self) -> None:
        """a, b: from data to a signed release."""
        show, cloud = self.show, self.cloud
        with show.step("a", f"Learn {self.name}: ingest, train, evaluate, export, quantise"):
            dataset = show.follow(cloud.work("/datasets", workload=self.name))
            show.check(
                dataset["number"] == 1,
                f"dataset {self.name}@1: {dataset['rows']} rows, sha256 {dataset['sha256'][:12]}",
            )
            run = show.follow(cloud.work("/runs", workload=self.name, epochs=self.script.epochs))
            show.check(run["accuracy"] >= self.script.floor, f"trained: {run['accuracy']:.2%} right on held-out data")
            done = show.follow(cloud.work(f"/runs/{run['id']}/variants", profiles=sorted(set(PROFILES.values()))))
            budget = self.script.workload.max_drop
            for variant in done["variants"]:
                figures = (
                    f"{variant['model_bytes'] / 1024:.0f} KB, {variant['accuracy']:.2%}, {variant['latency_ms']:.2f} ms"
                )
                show.check(
                    variant["drop"] <= budget,
                    f"{variant['precision']}: {figures}; drop {variant['drop']:+.2f} points of {budget}",
                )
        with show.step("b", "Publish: sign one bundle a device profile into the TUF repository"):
            release = cloud.post("/releases", run=run["id"])
            bundles = cloud.get(f"/releases/{self.name}/{release['number']}")["bundles"]
            show.check(
                len(bundles) == 2,
                f"release {self.name}/1: " + ", ".join(f"{b['profile']} {b['length'] / 1024:.0f} KB" for b in bundles),
            )

    def enroll(self) -> None:
        """c: devices join."""
        show, cloud = self.show, self.cloud
        with show.step("c", "Enrol three devices, and turn two away"):
            tokens = {
                name: cloud.post("/devices", name=name, profile=profile)["token"] for name, profile in PROFILES.items()
            }
            for name, token in tokens.items():
                done = self.stage.enroll(name, token)
                show.check(done.returncode == 0, f"{name} made its key, traded its token for a certificate")
            made_up = str(replace(Token.parse(tokens["edge-1"]), secret="0" * 40))
            for token, why in ((made_up, "a made-up token"), (tokens["edge-1"], "a used token")):
                refused = self.stage.enroll("edge-1", token, folder="impostor")
                gone = not self.stage.device("impostor").exists()
                said = refused.stderr.strip().rpartition("skerry-agent: ")[2]
                show.check(refused.returncode == 1 and gone, f"{why} is refused: {said}")
            for name in PROFILES:
                transports = (
                    ["mqtt", "grpc"] if self.has_mqtt and (name != "edge-3" or self._transport == "mqtt") else ["grpc"]
                )
                self.stage.start_agent(name, AGENT | {"transports": transports})
            with show.waiting("agents come online"):
                links = self._wait_for_links()
            show.check(len(links) == 3, ", ".join(f"{name} over {link}" for name, link in links.items()))

    def roll_out(self) -> None:
        """d: the first release."""
        with self.show.step("d", "Roll out: a canary, then the rest"):
            self._start_apps()
            self._follow_rollout(self._rollout(1), 1)

    def predict(self) -> None:
        """e: applications ask."""
        with self.show.step("e", "Applications ask for predictions on pictures that nobody trained on"):
            self._measure(PHASES[0], 1, dict.fromkeys(PROFILES, "clear"))
            for name in PROFILES:
                right = self.accuracy[name][PHASES[0]]
                self.show.check(right > self.script.floor - 0.08, f"{name} ({WAYS[name]}): {right:.1%} right")

    def report_home(self) -> None:
        """f: telemetry."""
        show = self.show
        with show.step("f", "Telemetry comes home, sealed"):
            if self.has_mqtt:
                self._check_broker_sees_ciphertext()
            else:
                show.say("no broker in this telling; the gRPC stream carries the same sealed envelopes")
            with show.waiting("every device's windows are in the lake"):
                counts = self._wait_for_windows()
            channels = 2 + len(self.script.workload.monitors)
            told = (f"{name} {rows // channels}" for name, rows in counts.items())
            show.check(all(counts.values()), f"windows in the lake, {channels} channels each: {', '.join(told)}")

    def drift(self) -> None:
        """g: the world changes."""
        show = self.show
        with show.step("g", "Two devices' pictures drift: " + ", ".join(f"{n} {w}" for n, w in DRIFT.items())):
            early = [alarm["summary"] for alarm in self.cloud.get("/alarms")]
            show.check(not early, "; ".join(["no alarm so far", *early]))
            mark = self.news.last
            for name, weather in DRIFT.items():
                self.apps[name].weather(weather)
            for name in DRIFT:
                with show.waiting(f"an alarm for {name}"):
                    self.news.wait(f"an alarm for {name}", PATIENCE, lambda e, n=name: _is_alarm(e, n), mark)
            alarms = self.cloud.get("/alarms")
            show.check(
                {alarm["device"] for alarm in alarms} == set(DRIFT),
                "alarms name " + ", ".join(sorted(DRIFT)) + ", and only these",
            )
            for alarm in alarms:
                show.say(alarm["summary"])
            self._measure(PHASES[1], 1, {name: DRIFT.get(name, "clear") for name in PROFILES})
            for name in DRIFT:
                before, during = self.accuracy[name][PHASES[0]], self.accuracy[name][PHASES[1]]
                show.check(during < before - 0.02, f"{name}: accuracy fell from {before:.1%} to {during:.1%}")

    def retrain(self) -> None:
        """h: the loop closes by itself."""
        show = self.show
        with show.step("h", "Late labels come home; the policy retrains, judges, publishes and rolls out by itself"):
            with show.waiting(f"{self.script.min_labels} labelled samples"):
                started = self.news.wait(
                    "the policy to retrain", 3 * PATIENCE, lambda e: _says(e, "retrain", "retraining")
                )
            show.check(True, started["reason"])
            with show.waiting("retraining, warm from the champion"):
                done = self.news.wait(
                    "release 2", 4 * PATIENCE, lambda e: e["kind"] == "retrain" and e["id"] > started["id"]
                )
            show.check(done["after"] == "release 2", f"candidate {done['reason']}")
            rollout = self.news.wait(
                "the policy's rollout", PATIENCE, lambda e: e["kind"] == "rollout" and e["actor"] == "policy"
            )
            self._follow_rollout(int(rollout["name"].split()[0]), 2)
            self._measure(PHASES[2], 2, {name: DRIFT.get(name, "clear") for name in PROFILES})
            for name in DRIFT:
                during, after = self.accuracy[name][PHASES[1]], self.accuracy[name][PHASES[2]]
                show.check(after > during + 0.02, f"{name}: accuracy rose from {during:.1%} to {after:.1%}")
            with show.waiting("the alarms are resolved"):
                for name in DRIFT:
                    self.news.wait(
                        "a resolved alarm",
                        PATIENCE,
                        lambda e, n=name: e["kind"] == "alarm" and e["after"] == "resolved" and n in e["name"],
                    )
            show.check(
                all(alarm["state"] == "resolved" for alarm in self.cloud.get("/alarms")), "the alarms are resolved"
            )

    def defend(self) -> None:
        """i: three attacks."""
        run, repository = self.stage.cloud_folder / "runs" / "2", self.stage.cloud_folder / "repository"
        with self.show.step("i", "Bad releases are stopped by the first device that meets them"):
            with sabotage.wrong_answers(run):
                number = self._publish_again("sabotage: classes swapped, signed by the right keys")
            self._expect_halt(number, "undone", "right on", "right keys, wrong answers")
            number = self._publish_again("a bit flips after signing")
            with sabotage.flipped_bit(repository, self.name, number):
                self._expect_halt(number, "refused", "", "a tampered bundle")
            number = self._publish_again("a stranger signs")
            with sabotage.strangers_signature(repository, self.name):
                self._expect_halt(number, "refused", "", "a stranger's signature")
            running = {d["name"]: d["release"] for d in self.cloud.get("/devices")}
            self.show.check(set(running.values()) == {2}, "every device still runs release 2")

    def end(self) -> None:
        """Lineage, and the figures."""
        show = self.show
        with show.step("j", f"Lineage of {self.name}/2, from the devices back to the data"):
            steps = self.cloud.get(f"/releases/{self.name}/2")["lineage"]
            for step in steps:
                show.say(f"{step['kind']} {step['name']}: {step['why']}")
            kinds = [step["kind"] for step in steps]
            show.check(kinds[:3] == ["device"] * 3 and kinds[-1] == "dataset", "it reaches the first dataset version")
        rows = [
            [name, DRIFT.get(name, "clear"), *(f"{self.accuracy[name][phase]:.1%}" for phase in PHASES)]
            for name in PROFILES
        ]
        show.console.print()
        show.table("Accuracy of live answers", ["device", "weather", *PHASES], rows)
        show.console.print()
        show.table("Seconds", list(show.seconds), [[f"{s:.1f}" for s in show.seconds.values()]])

    def _start_apps(self) -> None:
        field, labels = self._pictures()
        names = np.array(self.script.workload.labels)
        for offset, name in enumerate(PROFILES):
            order = np.random.default_rng(offset).permutation(len(field))
            scenes = {weather: corrupt(field[order]) for weather, corrupt in WEATHER.items()}
            file = self.stage.folder / f"{name}.npz"
            np.savez(file, names=names, labels=labels[order], **scenes)
            with self.show.waiting(f"{name} serves"):
                _wait_until(lambda n=name: (self.stage.device(n) / "run/oip.port").exists(), f"{name} to serve")
            self.apps[name] = self.stage.start_app(name, self.name, file, WAYS[name])

    def _pictures(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        workload: Any = self.script.workload()
        field = workload.field()
        return np.tile(field.inputs, (self.script.copies, 1, 1)), np.tile(field.labels, self.script.copies)

    def _rollout(self, release: int) -> int:
        done = self.cloud.post("/rollouts", workload=self.name, release=release, canary=1, wave_seconds=120.0)
        number: int = done["id"]
        return number

    def _follow_rollout(self, number: int, release: int) -> None:
        show = self.show
        with show.waiting(f"rollout {number}"):
            self.news.wait(
                f"rollout {number} to end",
                3 * PATIENCE,
                lambda e: (
                    e["kind"] == "rollout" and e["name"].startswith(f"{number} ") and e["after"] in ("done", "halted")
                ),
            )
        found = self.cloud.get(f"/rollouts/{number}")
        healthy = [
            e
            for e in self.news.events
            if e["kind"] == "update" and e["after"] == "healthy" and e["name"].endswith(f"/{release}")
        ]
        show.check(found["state"] == "done", f"rollout {number}: {found['state']}, {found['reason']}")
        canary = found["waves"][0][0]
        show.check(
            healthy[0]["actor"] == canary and len(healthy) == 3,
            f"{canary} was healthy first, then {', '.join(e['actor'] for e in healthy[1:])}",
        )
        show.say(
            f"{canary}: "
            + " → ".join(
                e["after"]
                for e in self.news.events
                if e["kind"] == "update" and e["actor"] == canary and e["name"].endswith(f"/{release}")
            )
        )

    def _measure(self, phase: str, release: int, weathers: dict[str, str]) -> None:
        for name, weather in weathers.items():
            app = self.apps[name]
            with self.show.waiting(f"{name}: {self.script.answers} answers"):
                app.wait(weather, release, self.script.answers, 2 * PATIENCE)
            self.accuracy[name][phase] = app.accuracy(weather, release)
        self.stage.alive()

    def _publish_again(self, reason: str) -> int:
        number: int = self.cloud.post("/releases", run=2, reason=reason)["number"]
        return number

    def _expect_halt(self, release: int, state: str, word: str, what: str) -> None:
        number = self._rollout(release)
        with self.show.waiting(what):
            self.news.wait(
                f"rollout {number} to end",
                2 * PATIENCE,
                lambda e: (
                    e["kind"] == "rollout" and e["name"].startswith(f"{number} ") and e["after"] in ("done", "halted")
                ),
            )
        found = self.cloud.get(f"/rollouts/{number}")
        devices = {row["device"]: row["state"] for row in found["devices"]}
        held = found["state"] == "halted" and list(devices.values()) == [state] and word in found["reason"]
        self.show.check(held, f"{what}: halted at the canary. {found['reason']}")

    def _wait_for_links(self) -> dict[str, str]:
        _wait_until(lambda: all(d["link"] for d in self.cloud.get("/devices")), "every device's link")
        return {device["name"]: device["link"] for device in self.cloud.get("/devices")}

    def _wait_for_windows(self) -> dict[str, int]:
        counts: dict[str, int] = {}

        def complete() -> bool:
            counts.update({row["device"]: row["windows"] for row in self.cloud.get("/telemetry")})
            return all(counts.get(name) for name in PROFILES)

        _wait_until(complete, "windows of every device")
        return counts

    def _check_broker_sees_ciphertext(self) -> None:
        broker = tap.broker_of(self.stage.cloud_pid)
        payloads = tap.listen(self.stage.cloud_folder, broker, self.stage.mqtt_port, 20)
        opened = [wire.decode(Up, payload) for payload in payloads]
        sealed = [up.batch.ciphertext for up in opened if up.batch]
        words = [
            self.name.encode(),
            b"ARROW",
            *(label.encode() for label in self.script.workload.labels if len(label) > 3),
        ]
        readable = [word for word in words for payload in sealed if word in payload]
        entropy = _entropy(b"".join(sealed))
        self.show.check(
            len(sealed) > 0 and not readable,
            f"the broker's administrator saw {len(sealed)} batches and not one readable word; {entropy:.2f} of 8 bits of entropy a byte",
        )


def _is_alarm(event: Event, device: str) -> bool:
    return event["kind"] == "alarm" and event["after"] == "open" and device in event["name"]


def _says(event: Event, kind: str, after: str) -> bool:
    return event["kind"] == kind and event["after"] == after


def _entropy(data: bytes) -> float:
    """Shannon entropy in bits a byte."""
    shares = np.bincount(np.frombuffer(data, np.uint8), minlength=256) / max(1, len(data))
    return float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())


def _wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise BrokenError(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.2)
