"""Processes that ingest are killed, frozen and stopped: nothing that devices made durable is lost or counted twice."""

import asyncio
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from skerry_cloud.adapters import mosquitto
from skerry_cloud.ingest.lake import Lake
from skerry_edge.adapters.transport_mqtt import MqttTransport
from skerry_edge.config import Folders
from skerry_edge.enroll import enroll
from skerry_edge.observe.arrow import encode
from skerry_edge.observe.outbox import Outbox
from skerry_edge.observe.uplink import Limits, Uplink
from skerry_shared.identity import load_key
from skerry_shared.ports.carrier import TlsFiles
from skerry_shared.sealing import Sealer
from skerry_shared.telemetry import pack
from story.crew import Crew, run
from story.stage import BIN, News, Stage

DEVICES, ROUND = 8, 10  # batches of each device in a round
PATIENT = Limits(silence=600.0, first_wait=0.05, longest_wait=0.5)  # a device does not find out by waiting

pytestmark = pytest.mark.skipif(mosquitto.found() is None, reason="mosquitto is not installed")


class Fleet:
    """A cloud and processes that ingest beside it, and devices in this process."""

    def __init__(self, folder: Path, crew: Crew) -> None:
        self.stage, self._crew, self.rounds = Stage(folder, crew, mqtt=True), crew, 0
        self.stage.init_cloud({"retrain.enabled": False, "ingest.workers": 2})
        self.cloud = self.stage.start_cloud()
        self.news, self._workers = News(self.cloud), set[str]()
        self.outboxes = {f"edge-{number}": self._enrol(f"edge-{number}") for number in range(DEVICES)}

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        """The worker with the first number that is free, once it ingests and the server knows."""
        before, command = self.news.last, (BIN / "skerry-cloud", "ingest", self.stage.cloud_folder)
        process = self._crew.start(name, *command, stdout=subprocess.PIPE, environment={"PYTHONUNBUFFERED": "1"})
        assert process.stdout
        assert process.stdout.readline().decode() == f"skerry-cloud: {name} ingests for fleet demo\n"
        self._workers.add(name)
        self.until(name, "online", before)
        return process

    def stop_workers(self) -> None:
        while self._workers:
            self._crew.stop(self._workers.pop())

    def until(self, name: str, state: str, after: int) -> None:
        """Wait for the event that a worker came or went."""
        self.news.wait(f"{name} {state}", 60, lambda event: (event["name"], event["after"]) == (name, state), after)

    def log(self, name: str) -> str:
        return (self.stage.folder / "logs" / f"{name}.log").read_text()

    def put_round(self) -> None:
        """Some batches of every device, which are durable there when this returns."""
        for number in range(self.rounds * ROUND, (self.rounds + 1) * ROUND):
            for name, outbox in self.outboxes.items():
                rows: dict[str, list[Any]] = {"time": [0.0], "prediction_id": [f"{name}/{number}"], "label": ["x"]}
                outbox.put("labels", pack(encode("labels", rows)))
        self.rounds += 1

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[None]:
        uplinks = [asyncio.create_task(self._uplink(name).run()) for name in self.outboxes]
        yield
        for uplink in uplinks:
            uplink.cancel()
        await asyncio.gather(*uplinks, return_exceptions=True)

    async def emptied(self) -> None:
        """All that was put is acknowledged."""
        for outbox in self.outboxes.values():
            while outbox.reader().next() is not None:  # noqa: ASYNC110 (nothing says that the spool is empty)
                await asyncio.sleep(0.02)

    def check(self) -> None:
        """What was put is in the lake, once."""
        found = Counter(Lake(self.stage.cloud_folder / "lake").scan("labels")["prediction_id"].to_pylist())
        assert found == Counter(f"{name}/{number}" for name in self.outboxes for number in range(self.rounds * ROUND))

    def _enrol(self, name: str) -> Outbox:
        folders = Folders(self.stage.device(name))
        token = self.cloud.post("/devices", name=name, profile="generic-x86-64")["token"]
        enroll(folders.root, self.stage.url, token, name)
        key, files = load_key(folders.key.read_bytes()), (folders.certificate, folders.ingest)
        certificate, ingest = (file.read_bytes() for file in files)
        return Outbox(folders.spool, 16 << 20, partial(Sealer, "demo", name, certificate, key, ingest))

    def _uplink(self, name: str) -> Uplink:
        folders = Folders(self.stage.device(name))
        identity = TlsFiles(folders.authority, folders.certificate, folders.key)
        transport = MqttTransport("localhost", self.stage.mqtt_port, "demo", name, identity)
        return Uplink(self.outboxes[name], [transport], lambda _: None, PATIENT)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with Crew(folder / "logs") as crew:
        yield Fleet(folder, crew)


def tell(fleet: Fleet, story: Callable[[], Awaitable[None]]) -> None:
    """In the end nobody but the server ingests, and all is there."""
    try:
        asyncio.run(asyncio.wait_for(story(), 100))
    finally:
        fleet.stop_workers()
    fleet.check()


def test_workers_that_are_killed_are_replaced_by_the_others_and_at_last_by_the_server(fleet: Fleet) -> None:
    async def story() -> None:
        workers = {name: await asyncio.to_thread(fleet.start, name) for name in ("cloud.1", "cloud.2")}
        refused = await asyncio.to_thread(run, BIN / "skerry-cloud", "ingest", fleet.stage.cloud_folder)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "ingest.workers: 2 run on" in refused.stderr
        async with fleet.linked():
            await asyncio.to_thread(fleet.put_round)
            await fleet.emptied()
            for name, process in workers.items():
                putting, before = asyncio.create_task(asyncio.to_thread(fleet.put_round)), fleet.news.last
                process.kill()
                await asyncio.to_thread(fleet.until, name, "offline", before)
                await putting
                await fleet.emptied()

    tell(fleet, story)


def test_a_worker_that_was_frozen_finds_others_in_its_place_and_shares_again(fleet: Fleet) -> None:
    async def story() -> None:
        one, two = [await asyncio.to_thread(fleet.start, name) for name in ("cloud.1", "cloud.2")]
        async with fleet.linked():
            putting, before = asyncio.create_task(asyncio.to_thread(fleet.put_round)), fleet.news.last
            one.send_signal(signal.SIGSTOP)
            await asyncio.to_thread(fleet.until, "cloud.1", "offline", before)
            await putting
            await fleet.emptied()
            putting, before = asyncio.create_task(asyncio.to_thread(fleet.put_round)), fleet.news.last
            one.send_signal(signal.SIGCONT)
            await asyncio.to_thread(fleet.until, "cloud.1", "online", before)
            await putting
            await fleet.emptied()
            before = fleet.news.last
            two.send_signal(signal.SIGTERM)
            await asyncio.to_thread(fleet.until, "cloud.2", "offline", before)
            await asyncio.to_thread(fleet.put_round)
            await fleet.emptied()
            assert await asyncio.to_thread(two.wait, 30) == 0
        shares = [line for line in fleet.log("cloud.1").splitlines() if " shards" in line]
        assert shares[-1].endswith("cloud.1 has 256 of 256 shards, beside cloud")

    tell(fleet, story)


def test_the_server_acts_on_what_a_worker_committed(fleet: Fleet) -> None:
    async def story() -> None:
        await asyncio.to_thread(fleet.start, "cloud.1")
        async with fleet.linked():
            event: dict[str, list[Any]] = {name: ["x"] for name in ("from", "to", "workload")}
            event |= {"time": [0.0], "subject": ["agent"], "reason": ["by a worker"], "release": [1], "rollout": [0]}
            fleet.outboxes["edge-0"].put("events", pack(encode("events", event)))
            await asyncio.to_thread(fleet.news.wait, "the event", 60, lambda event: event["reason"] == "by a worker")
            await fleet.emptied()

    tell(fleet, story)
