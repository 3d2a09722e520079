"""The story, act by act. Each ends in checks of what really happened; one that fails ends the story."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_shared import wire
from skerry_shared.identity import Token
from skerry_shared.telemetry import Up
from story import sabotage, tap
from story.stage import News
from story.telling import (
    AFTER,
    AGENT,
    BEFORE,
    CLEAR,
    DRIFT,
    DURING,
    PATIENCE,
    PHASES,
    PROFILES,
    WAYS,
    Telling,
    matching,
    wait_until,
)
from story.weather import WEATHER

TAPPED = 20  # messages that the broker's administrator listens to
MARGIN = 0.02  # of accuracy: what counts as a fall or a rise


def tell(story: Telling) -> None:
    """All of it."""
    for act in (begin, learn, publish, enroll, roll_out, predict, report_home, drift, retrain, defend, look_back):
        act(story)


def begin(story: Telling) -> None:
    """A fleet and its cloud."""
    if story.transport != "grpc" and not story.has_mqtt:
        story.show.say("Mosquitto is not installed: all devices speak gRPC")
    story.stage.init_cloud({"retrain.min_labels": story.script.min_labels, "rollouts.wave_minutes": 2.0})
    story.cloud = story.stage.start_cloud()
    story.news = News(story.cloud)
    story.show.say(f"skerry-cloud serves at {story.stage.url}")


def learn(story: Telling) -> None:
    """a: from data to checked variants."""
    show, cloud, budget = story.show, story.cloud, story.problem.max_drop
    with show.step("a", f"Learn {story.workload}: ingest, train, evaluate, export, quantise"):
        dataset = show.follow(cloud.work("/datasets", workload=story.workload))
        name = f"{story.workload}@{dataset['number']}"
        show.check(dataset["number"] == 1, f"dataset {name}: {dataset['rows']} rows, sha256 {dataset['sha256'][:12]}")
        run = show.follow(cloud.work("/runs", workload=story.workload, epochs=story.script.epochs))
        show.check(run["accuracy"] >= story.script.floor, f"trained: {run['accuracy']:.2%} right on held-out data")
        done = show.follow(cloud.work("/runs/1/variants", profiles=sorted(set(PROFILES.values()))))
        for variant in done["variants"]:
            size, right = f"{variant['model_bytes'] / 1024:.0f} KB", f"{variant['accuracy']:.2%} right"
            lost = f"{variant['drop']:+.2f} points lost of {budget} allowed"
            fact = f"{variant['kind']['precision']}: {size}, {right}, {lost}, {variant['latency_ms']:.2f} ms"
            show.check(variant["drop"] <= budget, fact)


def publish(story: Telling) -> None:
    """b: signed bundles."""
    with story.show.step("b", "Publish: sign one bundle a device profile into the TUF repository"):
        number = story.cloud.post("/releases", run=1)["number"]
        bundles = story.cloud.get(f"/releases/{story.workload}/{number}")["bundles"]
        sizes = ", ".join(f"{bundle['profile']} {bundle['length'] / 1024:.0f} KB" for bundle in bundles)
        story.show.check(len(bundles) == 2, f"release {story.workload}/{number}: {sizes}")


def enroll(story: Telling) -> None:
    """c: devices join, two are turned away."""
    show, stage = story.show, story.stage
    with show.step("c", "Enrol three devices, and turn two away"):
        tokens = {name: _announce(story, name) for name in PROFILES}
        with ThreadPoolExecutor() as all_at_once:
            joined = all_at_once.map(stage.enroll, tokens, tokens.values())
        for name, done in zip(tokens, joined, strict=True):
            show.check(done.returncode == 0, f"{name} made its key and traded its token for a certificate")
        made_up = str(replace(Token.parse(tokens["edge-1"]), secret="0" * 40))
        for token, what in ((made_up, "a made-up token"), (tokens["edge-1"], "a used token")):
            refused = stage.enroll("edge-1", token, folder="impostor")
            gone = not stage.device("impostor").exists()
            said = refused.stderr.strip().rpartition("refused: ")[2]
            show.check(refused.returncode == 1 and gone, f"{what} is refused: {said}")
        for name in PROFILES:
            stage.start_agent(name, AGENT | {"transports": story.transports(name)})
        with show.waiting("agents come online"):
            wait_until(lambda: all(device["link"] for device in story.cloud.get("/devices")), "every device's link")
        links = {device["name"]: device["link"] for device in story.cloud.get("/devices")}
        wanted = {name: story.transports(name)[0] for name in PROFILES}
        show.check(links == wanted, ", ".join(f"{name} over {link}" for name, link in links.items()))


def roll_out(story: Telling) -> None:
    """d: the first release."""
    with story.show.step("d", "Roll out: a canary, then the rest"):
        _start_apps(story)
        _follow_rollout(story, story.start_rollout(1), 1)


def predict(story: Telling) -> None:
    """e: applications ask."""
    with story.show.step("e", "Applications ask for predictions on pictures that nobody trained on"):
        story.measure(BEFORE, 1, CLEAR)
        for name, way in WAYS.items():
            right = story.accuracy[name][BEFORE]
            story.show.check(right > story.script.floor - 0.08, f"{name} ({way}): {right:.1%} right")


def report_home(story: Telling) -> None:
    """f: telemetry."""
    with story.show.step("f", "Telemetry comes home, sealed"):
        if story.has_mqtt:
            _check_ciphertext(story)
        else:
            story.show.say("no broker in this telling; the gRPC streams carry the same sealed envelopes")
        counts: dict[str, int] = {}
        served: dict[str, Sequence[Any]] = {}

        def complete() -> bool:
            counts.update({row["device"]: row["windows"] for row in story.cloud.get("/telemetry")})
            served.update({name: story.cloud.get(f"/devices/{name}")["service"] for name in PROFILES})
            return all(counts.get(name) and served[name] for name in PROFILES)

        with story.show.waiting("every device's windows are in the lake"):
            wait_until(complete, "windows of every device")
        channels = 2 + len(story.problem.monitors)
        told = ", ".join(f"{name} {rows // channels}" for name, rows in sorted(counts.items()))
        story.show.check(all(counts.values()), f"windows of {channels} channels in the lake: {told}")
        models = [(name, model) for name in PROFILES for model in served[name]]
        told = ", ".join(f"{name} {model['p99_ms']:.1f}" for name, model in models)
        well = all(model["answered"] and not model["errors"] for _, model in models)
        story.show.check(well, f"ms in which 99 % of runs were done: {told}")


def drift(story: Telling) -> None:
    """g: the world changes."""
    show = story.show
    with show.step("g", "Two devices' pictures drift: " + ", ".join(f"{n} {w}" for n, w in DRIFT.items())):
        early = [alarm["summary"] for alarm in story.cloud.get("/alarms")]
        show.check(not early, "; ".join(["no alarm so far", *early]))
        for name, weather in DRIFT.items():
            story.apps[name].weather(weather)
        for name in DRIFT:
            story.event(f"an alarm for {name}", matching("alarm", name, ("open",)))
        alarms = story.cloud.get("/alarms")
        named = {alarm["name"] for alarm in alarms}
        show.check(named == set(DRIFT), f"alarms name {' and '.join(sorted(named))}, and only these")
        for alarm in alarms:
            show.say(alarm["summary"])
        story.measure(DURING, 1, CLEAR | DRIFT)
        for name in DRIFT:
            before, during = story.accuracy[name][BEFORE], story.accuracy[name][DURING]
            show.check(during < before - MARGIN, f"{name}: accuracy fell from {before:.1%} to {during:.1%}")


def retrain(story: Telling) -> None:
    """h: the loop closes by itself."""
    show = story.show
    with show.step("h", "Late labels come home; the policy retrains, judges, publishes and rolls out by itself"):
        started = story.event("enough labelled samples", matching("retrain", after=("retraining",)), 3 * PATIENCE)
        show.check(started["actor"] == "policy", started["reason"])
        ended = story.event("the candidate", matching("retrain"), 5 * PATIENCE, started["id"])
        show.check(ended["after"] == "release 2", f"candidate, warm from the champion: {ended['reason']}")
        rollout = story.event("the policy's rollout", matching("rollout", actor="policy"))
        _follow_rollout(story, int(rollout["name"].split()[0]), 2)
        story.measure(AFTER, 2, CLEAR | DRIFT)
        for name in DRIFT:
            during, after = story.accuracy[name][DURING], story.accuracy[name][AFTER]
            show.check(after > during + MARGIN, f"{name}: accuracy rose from {during:.1%} to {after:.1%}")
            story.event("a resolved alarm", matching("alarm", name, ("resolved",)))
        left = [alarm["summary"] for alarm in story.cloud.get("/alarms") if alarm["state"] == "open"]
        show.check(not left, "; ".join(["both alarms are resolved, and no new one came", *left]))


def defend(story: Telling) -> None:
    """i: three attacks."""
    folder = story.stage.cloud_folder
    with story.show.step("i", "Bad releases are stopped by the first device that meets them"):
        with sabotage.wrong_answers(folder / "runs" / "2"):
            number = _publish_again(story, "an insider swaps the classes")
        _expect_halt(story, number, "undone", "right on", "right keys, wrong answers")
        number = _publish_again(story, "a bit flips after signing")
        with sabotage.flipped_bit(folder / "repository", story.workload, number):
            _expect_halt(story, number, "refused", "hash", "a tampered bundle")
        number = _publish_again(story, "a stranger signs")
        with sabotage.strangers_signature(folder / "repository", story.workload):
            _expect_halt(story, number, "refused", "signed", "a stranger's signature")
        running = {model["release"] for device in story.cloud.get("/devices") for model in device["runs"]}
        story.show.check(running == {2}, "every device still runs release 2")


def look_back(story: Telling) -> None:
    """Lineage, and the figures."""
    show, name = story.show, f"{story.workload}/2"
    with show.step("j", f"Lineage of {name}, from the devices back to the data"):
        steps = story.cloud.get(f"/releases/{name}")["lineage"]
        for step in steps:
            show.say(f"{step['kind']} {step['name']}: {step['why']}")
        kinds = [step["kind"] for step in steps]
        show.check(kinds[:3] == ["device"] * 3 and kinds[-1] == "dataset", "it reaches the first dataset version")
    rows = [
        [device, (CLEAR | DRIFT)[device], *(f"{story.accuracy[device][phase]:.1%}" for phase in PHASES)]
        for device in PROFILES
    ]
    show.table("Share of live answers that were right", ["device", "pictures", *PHASES], rows)
    show.table("Seconds", list(show.seconds), [[f"{seconds:.1f}" for seconds in show.seconds.values()]])


def _announce(story: Telling, name: str) -> str:
    token: str = story.cloud.post("/devices", name=name, profile=PROFILES[name])["token"]
    return token


def _start_apps(story: Telling) -> None:
    pictures, labels = story.field()
    names = np.array(story.problem.labels)
    for seed, device in enumerate(PROFILES):
        order = np.random.default_rng(seed).permutation(len(pictures))
        scenes = {weather: corrupt(pictures[order]) for weather, corrupt in WEATHER.items()}
        file = story.stage.folder / f"{device}.npz"
        np.savez(file, **{"names": names, "labels": labels[order]} | scenes)  # type: ignore[arg-type]
        story.apps[device] = story.stage.start_app(device, story.workload, file, WAYS[device])


def _follow_rollout(story: Telling, number: int, release: int) -> None:
    found = story.end_of_rollout(number)
    story.show.check(found["state"] == "done", f"rollout {number}: {found['state']}, {found['reason']}")
    updates, canary = story.updates(release), found["waves"][0][0]
    healthy = [event["actor"] for event in updates if event["after"] == "healthy"]
    others = ", ".join(healthy[1:])
    story.show.check(healthy[0] == canary and len(healthy) == 3, f"{canary} was healthy first, then {others}")
    story.show.say(f"{canary}: " + " → ".join(event["after"] for event in updates if event["actor"] == canary))


def _publish_again(story: Telling, reason: str) -> int:
    number: int = story.cloud.post("/releases", run=2, reason=reason)["number"]
    return number


def _expect_halt(story: Telling, release: int, state: str, word: str, what: str) -> None:
    found = story.end_of_rollout(story.start_rollout(release))
    states = [row["state"] for row in found["devices"]]
    held = found["state"] == "halted" and states == [state] and word in found["reason"]
    story.show.check(held, f"{what}: halted at the canary. {found['reason']}")


def _check_ciphertext(story: Telling) -> None:
    broker = tap.broker_of(story.stage.cloud_pid)
    with story.show.waiting("the broker's administrator listens"):
        heard = tap.listen(story.stage.cloud_folder, broker, story.stage.mqtt_port, TAPPED)
    batches = [up.batch.ciphertext for up in (wire.decode(Up, message) for message in heard) if up.batch]
    labels = [label for label in story.problem.labels if len(label) > 3]
    words = [word.encode() for word in (story.workload, "ARROW", *labels)]
    readable = [word for word in words if any(word in batch for batch in batches)]
    bits = _entropy(np.frombuffer(b"".join(batches), np.uint8))
    saw = f"{len(batches)} batches, no readable word, {bits:.2f} of 8 bits of entropy a byte"
    story.show.check(bool(batches) and not readable and bits > 7.5, f"the broker's administrator saw {saw}")


def _entropy(data: NDArray[np.uint8]) -> float:
    """Shannon's, in bits a byte."""
    shares = np.bincount(data, minlength=256) / len(data)
    return float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())
