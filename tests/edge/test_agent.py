"""The daemon as a process, offline: serves, records, takes reports, and stops without losing what it saw."""

import asyncio
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from skerry_edge import AsyncClient, Client, SocketClient, cli, status
from skerry_edge.config import Folders, Health, Shadow
from skerry_edge.infer.models import load_model
from skerry_edge.observe.arrow import decode
from skerry_edge.observe.outbox import Reader
from skerry_edge.observe.recorder import SAMPLES
from skerry_edge.observe.spool import Spool
from skerry_edge.update.flow import UpdateFlow
from skerry_edge.update.memory import Memory
from skerry_edge.update.plan import Device, Floor, authenticate
from skerry_edge.update.slots import Slots
from skerry_edge.update.state import StateFile
from skerry_edge.update.world import Live, World
from skerry_proto.v1 import inference_pb2 as pb
from skerry_proto.v1 import services_pb2, telemetry_pb2
from skerry_shared import bundle, identity, signing, telemetry, windows, wire
from skerry_shared.errors import DeadlineError, InputError, StateError
from skerry_shared.privacy import drop, generalise, keep, pseudonym
from skerry_shared.release import Manifest
from skerry_shared.sealing import IngestKey, Opener

Rows = dict[str, list[Any]]
LINKS = 2  # of agents, one after the other, that a gateway of a test can have
PROGRAM = [sys.executable, "-m", "skerry_edge.cli"]


class Machine:
    """A device's folder as enrolment leaves it, release 1 installed, and who may read its telemetry."""

    def __init__(
        self, folder: Path, director: Ed25519PrivateKey, authority: identity.Authority | None = None, settings: str = ""
    ) -> None:
        self.folders, self.director, self.ingest = Folders(folder), director, IngestKey.new()
        now = datetime.now(timezone.utc)
        self.authority, key = authority or identity.Authority.new("harbour", now), identity.new_key()
        self.folders.identity.mkdir(parents=True)
        csr = identity.request("pump-7", key)
        self.folders.certificate.write_bytes(self.authority.sign_request(csr, "pump-7", now, 30))
        self.folders.key.write_bytes(identity.private_pem(key))
        self.folders.key.chmod(0o600)
        pem = self.authority.certificate.public_bytes(serialization.Encoding.PEM)
        self.folders.authority.write_bytes(pem)
        self.folders.director.write_bytes(signing.public_pem(director.public_key()))
        self.folders.ingest.write_bytes(self.ingest.public_bytes())
        self.folders.config.write_text(
            'fleet = "harbour"\ndevice = "pump-7"\nprofile = "generic-x86-64"\nsample_rate = 1.0\nwindow_s = 3600\n'
            + (settings or 'repository = "https://127.0.0.1:9/tuf"\ngateway = "127.0.0.1:9"\n')
        )

    def install(self, data: bytes, assignment: bytes) -> None:
        """As an agent does that had a cloud."""

        class Shelf:
            def fetch(self, path: str, sha256: str, length: int) -> bytes:
                return data

        device = Device("harbour", "pump-7", os.uname().machine, ("onnxruntime",), 1 << 30)
        self.baseline = bundle.peek(data).baseline
        order = authenticate(assignment, self.director.public_key(), device)
        world = World(
            workload=order.assignment.workload,
            device=device,
            repository=Shelf(),
            memory=Memory(100),
            floor=Floor(lambda: 2000.0),
            load=lambda unpacked: Live(unpacked, load_model(unpacked, 1)),
            serve=lambda _: None,
            report=lambda _: None,
            clock=lambda: 2000.0,
            timer=lambda: 0.0,
            health=Health(proving_s=0),
            shadow=Shadow(),
            compared=lambda _: None,
        )
        folder = self.folders.workload(world.workload)
        folder.root.mkdir(parents=True, exist_ok=True)
        flow = UpdateFlow(world, Slots(folder.root), StateFile(folder.update))
        flow.start()
        flow.receive(order)
        assert flow.advance() is None

    def told(self) -> dict[str, Rows]:
        """All rows in the spool, by table, opened as the cloud does."""
        rows: dict[str, Rows] = {
            table: {column: [] for column in columns} for table, columns in telemetry.TABLES.items()
        }
        reader = Reader({name: Spool(self.folders.spool / name, 1 << 26) for name in telemetry.CLASSES})
        opener: Opener | None = None
        while record := reader.next():
            up = wire.decode(telemetry.Up, record.up)
            if up.session:
                opener = Opener(up.session, "harbour", self.authority.certificate, self.ingest)
            if up.batch and opener:
                header, payload = opener.open(up.batch)
                for column, values in decode(header.table, telemetry.unpack(payload)).items():
                    rows[header.table][column] += values
        return rows


@pytest.fixture
def machine(
    tmp_path: Path,
    director: Ed25519PrivateKey,
    release: Callable[..., tuple[bytes, Manifest]],
    assign: Callable[..., bytes],
) -> Machine:
    machine = Machine(tmp_path / "d", director)
    data = release(1)[0]
    machine.install(data, assign(data, 1, 1))
    return machine


@pytest.fixture
def agent(machine: Machine) -> Iterator[subprocess.Popen[str]]:
    with start(machine.folders.root) as process:
        yield process


@contextmanager
def start(folder: Path, until: str = "serving tiny", **environment: str) -> Iterator[subprocess.Popen[str]]:
    """An agent that serves its model when the context is entered; whatever happens in it, the agent ends with it."""
    command, variables = [*PROGRAM, "run", str(folder)], os.environ | environment
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables) as process:
        try:
            wait_for(process, until)
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read the agent's log up to the line that contains ``text``."""
    assert process.stderr
    log = []
    while line := process.stderr.readline():  # pytest's timeout ends a wait in vain
        log.append(line)
        if text in line:
            return
    raise AssertionError("".join(log))


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    return log


def ask(address: str, images: np.ndarray[Any, Any], model: str = "tiny") -> pb.ModelInferResponse:
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=images.shape)
    request = pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[images.tobytes()])
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        reply: pb.ModelInferResponse = infer(request, timeout=10)
        return reply


def test_a_days_work(machine: Machine, agent: subprocess.Popen[str], pictures: Callable[..., Any]) -> None:
    folders, images = machine.folders, pictures(4)
    port = folders.port.read_text()
    over_tcp = ask(f"127.0.0.1:{port}", images)
    over_unix = ask(f"unix:{folders.socket}", images)
    assert over_tcp.raw_output_contents == over_unix.raw_output_contents
    with Client(folders.root) as client:
        inside = client.predict({"image": images})
        assert inside.outputs["scores"].tobytes() == over_tcp.raw_output_contents[0]
        client.feedback(inside.ids[0], "left")
    assert client.dropped == 0
    stop(agent)
    told = machine.told()
    sizes = [len(channel.counts) for channel in machine.baseline]
    assert sum(windows.unpack(sizes, packed).sum() for packed in told["windows"]["packed"]) == 12 * len(sizes)
    served = told["service"]
    assert (sum(served["answered"]), sum(map(sum, served["latency"])), set(served["errors"])) == (12, 3, {0})
    assert len(told["samples"]["input"]) == 12
    assert set(told["samples"]["input"]) == {image.tobytes() for image in images}
    assert (told["labels"]["prediction_id"], told["labels"]["label"]) == ([inside.ids[0]], ["left"])
    assert inside.ids[0] in told["samples"]["prediction_id"]
    agent_events = [
        to for to, subject in zip(told["events"]["to"], told["events"]["subject"], strict=True) if subject == "agent"
    ]
    assert agent_events == ["started", "stopped"]


def test_it_answers_over_rest_too(machine: Machine, agent: subprocess.Popen[str], pictures: Callable[..., Any]) -> None:
    images = pictures(1)
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2], "data": images.ravel().tolist()}
    url = f"http://127.0.0.1:{machine.folders.http_port.read_text()}/v2/models/tiny/infer"
    with urllib.request.urlopen(url, json.dumps({"inputs": [tensor]}).encode(), timeout=10) as reply:
        scores = json.load(reply)["outputs"][0]["data"]
    over_unix = ask(f"unix:{machine.folders.socket}", images)
    assert np.asarray(scores, np.float32).tobytes() == over_unix.raw_output_contents[0]
    stop(agent)
    assert not machine.folders.http_port.exists()
    assert len(machine.told()["samples"]["input"]) == 2


def test_systemd_hears_when_it_is_ready_that_it_lives_and_when_it_stops(machine: Machine, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        with start(machine.folders.root, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="300000") as agent:
            heard = set[bytes]()
            while heard != {b"READY=1", b"WATCHDOG=1"}:  # signs of life come first: the model is being tried
                heard.add(systemd.recv(100))
            stop(agent)
        while (word := systemd.recv(100)) != b"STOPPING=1":
            assert word == b"WATCHDOG=1"


def test_a_healthy_model_that_breaks_its_latency_bound_gives_way_offline(
    machine: Machine, release: Callable[..., tuple[bytes, Manifest]], assign: Callable[..., bytes], pictures: Any
) -> None:
    machine.install(data := release(2)[0], assign(data, 2, 2))
    with machine.folders.config.open("a") as config:
        config.write("[protect]\nslo_ms = 0.000001\nmin_answers = 1\npatience = 1\n")
    with start(machine.folders.root, "serving tiny release 2") as agent:
        assert ask(f"unix:{machine.folders.socket}", pictures(1)).model_version == "2"
        wait_for(agent, "healthy → undone")
        assert ask(f"unix:{machine.folders.socket}", pictures(1)).model_version == "1"
        stop(agent)
    events = machine.told()["events"]
    undone = dict(zip(events["to"], zip(events["release"], events["reason"], strict=True), strict=True))["undone"]
    assert undone[0] == 2 and "allowed are 1e-06 ms" in undone[1]


def test_one_agent_a_folder(machine: Machine, agent: subprocess.Popen[str]) -> None:
    second = subprocess.run([*PROGRAM, "run", machine.folders.root], capture_output=True, text=True, timeout=30)
    assert (second.returncode, second.stderr.count("\n")) == (1, 1)
    assert "runs on this folder already" in second.stderr


def test_killed_and_started_again_it_serves(machine: Machine, agent: subprocess.Popen[str], pictures: Any) -> None:
    agent.kill()
    agent.wait()
    with start(machine.folders.root) as again:
        assert ask(f"unix:{machine.folders.socket}", pictures(1)).model_version == "1"
        stop(again)


def test_the_status_of_a_running_and_a_stopped_agent(machine: Machine, agent: subprocess.Popen[str]) -> None:
    running = status.read(machine.folders)
    ports = [int(file.read_text()) for file in (machine.folders.port, machine.folders.http_port)]
    assert (running.running, running.port, running.http_port) == (True, *ports)
    stop(agent)
    stopped = status.read(machine.folders)
    assert (stopped.running, stopped.port) == (False, None)
    (model,) = stopped.models
    assert (model.workload, model.update) == ("tiny", "healthy") and model.active and model.active.release == 1
    assert [event["to"] for event in stopped.events if event["subject"] == "agent"] == ["started", "stopped"]
    text = subprocess.run([*PROGRAM, "status", machine.folders.root], capture_output=True, text=True, check=True).stdout
    assert "tiny release 1, slot a" in text
    as_json = subprocess.run([*PROGRAM, "status", "--json", machine.folders.root], capture_output=True, check=True)
    assert json.loads(as_json.stdout)["models"][0]["active"]["release"] == 1


def test_an_application_may_not_tell_events_or_nonsense(machine: Machine, agent: subprocess.Popen[str]) -> None:
    with grpc.insecure_channel(f"unix:{machine.folders.socket}") as channel:
        submit = channel.unary_unary(
            "/skerry.v1.Local/Submit", services_pb2.Report.SerializeToString, services_pb2.Reported.FromString
        )
        for report in (
            services_pb2.Report(table="events", payload=telemetry.pack(b"")),
            services_pb2.Report(table="samples", payload=b"nonsense"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                submit(report, timeout=10)
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_client_works_while_the_agent_is_away_and_follows_a_switch(
    machine: Machine, release: Callable[..., tuple[bytes, Manifest]], assign: Callable[..., bytes], pictures: Any,
    weights: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("skerry_edge.client.LOOK_S", 0.01)
    monkeypatch.setattr("skerry_edge.serve.local.CLOSE_S", 0.1)
    with Client(machine.folders.root) as client:
        assert client.predict({"image": pictures(1)}).release == 1
        data = release(2, weights * 2)[0]
        machine.install(data, assign(data, 2, 2))
        until = time.monotonic() + 10
        while client.predict({"image": pictures(1)}).release != 2:
            assert time.monotonic() < until
        with pytest.raises(InputError, match="'image'"):
            client.predict({"image": pictures(1).astype(np.float32)})
    assert client.dropped > 0


@pytest.mark.parametrize(
    "spoil", [lambda path: path.symlink_to("active"), lambda path: path.write_text("{")], ids=["unreadable", "damaged"]
)
def test_a_client_serves_on_while_it_cannot_tell_what_is_active(
    spoil: Callable[[Path], Any], machine: Machine, release: Callable[..., tuple[bytes, Manifest]],
    assign: Callable[..., bytes], pictures: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("skerry_edge.client.LOOK_S", 0.01)
    monkeypatch.setattr("skerry_edge.serve.local.CLOSE_S", 0.1)
    pointer = Slots(machine.folders.workload("tiny").root).pointer
    with Client(machine.folders.root) as client:
        assert client.predict({"image": pictures(1)}).release == 1
        until = time.monotonic() + 30
        good, bad = pointer.with_name("good"), pointer.with_name("bad")
        good.write_bytes(pointer.read_bytes())
        spoil(bad)  # the link is one to itself where it is moved
        bad.replace(pointer)
        while "still serving release 1" not in caplog.text:
            assert client.predict({"image": pictures(1)}).release == 1 and time.monotonic() < until
        some_looks = time.monotonic() + 0.2
        while time.monotonic() < some_looks:
            assert client.predict({"image": pictures(1)}).release == 1
        assert caplog.text.count("still serving release 1") == 1
        good.replace(pointer)
        data = release(2)[0]
        machine.install(data, assign(data, 2, 2))
        while client.predict({"image": pictures(1)}).release != 2:
            assert time.monotonic() < until


def observed_while_the_agent_is_away(
    machine: Machine, pictures: Any, sample_rate: float
) -> tuple[int, dict[str, Rows]]:
    """Answers of half a second in process, in windows of a twentieth; what the agent tells of them that came later."""
    config = machine.folders.config
    quick = config.read_text().replace("window_s = 3600", "window_s = 0.05")
    config.write_text(quick.replace("sample_rate = 1.0", f"sample_rate = {sample_rate}"))
    with Client(machine.folders.root) as client:
        client.predict({"image": pictures(1)})  # loads the model
        answered, until = 1, time.monotonic() + 0.5
        while time.monotonic() < until:
            client.predict({"image": pictures(1)})
            answered += 1
        with start(machine.folders.root) as agent:
            client.close()
            stop(agent)
    assert client.dropped == 0
    return answered, machine.told()


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that do each second's work a hundred times a second, and wait for an agent when they are closed."""
    monkeypatch.setattr("skerry_edge.client.TICK_S", 0.01)
    monkeypatch.setattr("skerry_edge.observe.recorder.PACE_S", 0.02)
    monkeypatch.setattr("skerry_edge.serve.local.CLOSE_S", 30.0)  # gRPC takes its time between attempts


@pytest.mark.usefixtures("restless")
def test_windows_end_while_the_agent_is_away_and_reach_it_later(machine: Machine, pictures: Any) -> None:
    answered, told = observed_while_the_agent_is_away(machine, pictures, sample_rate=0.0)
    counted, sizes = told["windows"], [len(channel.counts) for channel in machine.baseline]
    assert sum(windows.unpack(sizes, packed).sum() for packed in counted["packed"]) == answered * len(sizes)
    assert len(set(counted["start"])) > 2
    assert sum(told["service"]["answered"]) == answered


@pytest.mark.usefixtures("restless")
def test_samples_are_no_more_than_enough_while_the_agent_is_away(machine: Machine, pictures: Any) -> None:
    answered, told = observed_while_the_agent_is_away(machine, pictures, sample_rate=1.0)
    assert 0 < len(told["samples"]["input"]) < answered / 2


def test_predictions_beside_an_event_loop(machine: Machine, pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skerry_edge.serve.local.CLOSE_S", 0.1)

    async def ask() -> list[Any]:
        async with AsyncClient(machine.folders.root) as client:
            with pytest.raises(InputError):
                await client.predict({})
            return await asyncio.gather(*(client.predict({"image": pictures(1, seed=i)}) for i in range(20)))

    answers = asyncio.run(ask())
    assert len({answer.prediction_id for answer in answers}) == 20


def test_answers_in_bulk(machine: Machine, pictures: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, out = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    for i, picture in enumerate(pictures(5)):
        np.save(given / f"{i}.npy", picture)
    assert cli.main(["infer", "--batch", str(given), str(out), "--size", "2", str(machine.folders.root)]) == 0
    assert "5 answers in" in capsys.readouterr().err
    assert [len(np.load(part)["scores"]) for part in sorted(out.glob("*.npz"))] == [2, 2, 1]


def test_a_client_without_a_model(tmp_path: Path, director: Ed25519PrivateKey, pictures: Any) -> None:
    with Client(Machine(tmp_path / "d", director).folders.root) as client, pytest.raises(StateError, match="no model"):
        client.predict({"image": pictures(1)})


def test_the_doctor_finds_what_is_wrong(machine: Machine) -> None:
    done = subprocess.run([*PROGRAM, "doctor", "--json", machine.folders.root], capture_output=True, text=True)
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert {name for name, finding in findings.items() if not finding["ok"]} == {"repository", "gateway"}
    assert "golden outputs within" in findings["model"]["detail"]


def test_the_doctor_sees_a_damaged_model_a_public_key_and_a_clock_in_the_past(machine: Machine) -> None:
    folders = machine.folders
    folders.key.chmod(0o644)
    tiny = folders.workload("tiny")
    stored = StateFile(tiny.update).load()
    StateFile(tiny.update).save(replace(stored, floor=4_000_000_000))
    (tiny.root / "a/model.onnx").write_bytes(b"rot")
    done = subprocess.run([*PROGRAM, "doctor", machine.folders.root], capture_output=True, text=True)
    failed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAIL")}
    assert failed >= {"certificate", "clock", "model"}


@pytest.fixture
def gateway(cloud: Any) -> Iterator[Any]:
    """The cloud's end of a link, as bare as can be: sends what is put into ``desired``."""
    downs: queue.SimpleQueue[telemetry_pb2.Down | None] = queue.SimpleQueue()

    def link(_: Any, context: grpc.ServicerContext) -> Iterator[telemetry_pb2.Down]:
        context.send_initial_metadata(())
        return iter(downs.get, None)

    handler = grpc.stream_stream_rpc_method_handler(
        link, telemetry_pb2.Up.FromString, telemetry_pb2.Down.SerializeToString
    )
    key = identity.new_key()
    certificate = cloud.authority.issue_server(key, ("127.0.0.1",), datetime.now(timezone.utc), 1)
    credentials = grpc.ssl_server_credentials([(identity.private_pem(key), certificate)], cloud.authority_pem, True)
    server = grpc.server(ThreadPoolExecutor(LINKS))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("skerry.v1.Gateway", {"Link": handler})])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield port, downs
    for _ in range(LINKS):
        downs.put(None)
    server.stop(0).wait()


def test_the_cloud_assigns_and_the_device_judges(
    tmp_path: Path, director: Ed25519PrivateKey, cloud: Any, publisher: Any, gateway: Any, pictures: Any,
    release: Callable[..., tuple[bytes, Manifest]], assign: Callable[..., bytes], weights: np.ndarray[Any, Any],
) -> None:  # fmt: skip
    """A real link, a real repository: the first release is installed, one that answers nonsense is undone."""
    port, downs = gateway
    settings = f'repository = "{cloud.url}/tuf"\ngateway = "127.0.0.1:{port}"\n[health]\nproving_answers = 20\n'
    machine = Machine(tmp_path / "d", director, cloud.authority, settings)
    machine.folders.trust_root.write_bytes(publisher.root)
    good, bad = release(1)[0], release(2, -weights)[0]
    expires = int(time.time()) + 3600

    def send(data: bytes, number: int) -> None:
        publisher.publish(f"tiny/{number}/generic-x86-64.bundle", data)
        downs.put(telemetry_pb2.Down(desired=assign(data, number, number, expires=expires)))

    with start(machine.folders.root, until="linked over grpc") as agent:
        send(good, 1)
        wait_for(agent, "proving → healthy")
        send(bad, 2)
        wait_for(agent, "probing → proving")
        wait_for(agent, "serving tiny release 2")
        for i in range(SAMPLES):  # a full batch, which does not wait
            ask(f"unix:{machine.folders.socket}", pictures(1, seed=i))
        wait_for(agent, "proving → undone")
        assert ask(f"unix:{machine.folders.socket}", pictures(1)).model_version == "1"
        stop(agent)
    events = machine.told()["events"]
    updates = [
        (r, to) for r, to, s in zip(events["release"], events["to"], events["subject"], strict=True) if s == "update"
    ]
    assert updates == [
        (1, "assigned"), (1, "fetching"), (1, "probing"), (1, "proving"), (1, "healthy"),
        (2, "assigned"), (2, "fetching"), (2, "probing"), (2, "proving"), (2, "undone"),
    ]  # fmt: skip


def test_a_shadow_reports_and_the_champion_goes_on_serving(
    tmp_path: Path, director: Ed25519PrivateKey, cloud: Any, publisher: Any, gateway: Any, pictures: Any,
    release: Callable[..., tuple[bytes, Manifest]], assign: Callable[..., bytes], weights: np.ndarray[Any, Any],
) -> None:  # fmt: skip
    port, downs = gateway
    settings = f'repository = "{cloud.url}/tuf"\ngateway = "127.0.0.1:{port}"\n[shadow]\nanswers = {SAMPLES}\n'
    machine = Machine(tmp_path / "d", director, cloud.authority, settings)
    machine.folders.trust_root.write_bytes(publisher.root)
    first, second = release(1)[0], release(2, -weights)[0]
    machine.install(first, assign(first, 1, 1))
    publisher.publish("tiny/2/generic-x86-64.bundle", second)
    with start(machine.folders.root, until="linked over grpc") as agent:
        signed = assign(second, 2, 2, expires=int(time.time()) + 3600, mode="shadow")
        downs.put(telemetry_pb2.Down(desired=signed))
        wait_for(agent, "probing → shadowing")
        for i in range(SAMPLES):
            assert ask(f"unix:{machine.folders.socket}", pictures(1, seed=i)).model_version == "1"
        wait_for(agent, "shadowing → shadowed")
        stop(agent)
    (compared,), (champion,) = machine.told()["shadow"]["compared"], machine.told()["shadow"]["champion"]
    assert (compared, champion) == (SAMPLES, 1)


def test_a_candidate_is_measured_through_a_kill_and_what_serves_is_not_touched(
    tmp_path: Path, director: Ed25519PrivateKey, cloud: Any, publisher: Any, gateway: Any, pictures: Any,
    release: Callable[..., tuple[bytes, Manifest]], assign: Callable[..., bytes], weights: np.ndarray[Any, Any],
) -> None:  # fmt: skip
    port, downs = gateway
    settings = f'repository = "{cloud.url}/tuf"\ngateway = "127.0.0.1:{port}"\n'
    machine = Machine(tmp_path / "d", director, cloud.authority, settings)
    machine.folders.trust_root.write_bytes(publisher.root)
    first, candidate = release(1)[0], release(0, -weights)[0]
    machine.install(first, assign(first, 1, 1))
    serving = sorted(path for path in machine.folders.workload("tiny").root.rglob("*") if path.is_file())
    before = {path: path.read_bytes() for path in serving if "engines" not in path.parts}
    path = "tiny/0/generic-x86-64-ab.bundle"
    publisher.publish(path, candidate)
    expires = int(time.time()) + 3600
    with start(machine.folders.root, until="linked over grpc") as agent:
        downs.put(telemetry_pb2.Down(desired=assign(candidate, 0, 2, expires=expires, path=path, mode="measure")))
        wait_for(agent, "benchmark 2 of tiny begins")
        agent.kill()
        agent.wait()
    assert not machine.told()["measured"]["job"]
    with start(machine.folders.root, until="benchmark 2 of tiny is done") as agent:  # nobody has to tell it again
        assert ask(f"unix:{machine.folders.socket}", pictures(1)).model_version == "1"
        stop(agent)
    told = machine.told()["measured"]
    assert (told["job"], told["provider"], told["fault"]) == ([2], ["cpu"], [""])
    assert told["sha256"] == [bundle.digest(candidate)] and told["p50_ms"][0] > 0
    assert {path: path.read_bytes() for path in before} == before
    assert [path.name for path in machine.folders.bench.iterdir()] == ["job"]


class Asking(threading.Thread):
    """An application that asks one model, over and over, and notes what went wrong."""

    def __init__(self, address: str, model: str, images: np.ndarray[Any, Any]) -> None:
        super().__init__(daemon=True)
        self.answered, self.failed, self.done = 0, list[str](), threading.Event()
        self._asked = (address, images, model)

    def run(self) -> None:
        while not self.done.is_set():
            try:
                self.answered += ask(*self._asked).model_version == "1"
            except grpc.RpcError as error:
                self.failed.append(str(error))

    def __enter__(self) -> "Asking":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join()


def test_two_models_each_updated_undone_and_dropped_on_its_own(
    tmp_path: Path, director: Ed25519PrivateKey, cloud: Any, publisher: Any, gateway: Any, pictures: Any,
    release: Callable[..., tuple[bytes, Manifest]], assign: Callable[..., bytes], weights: np.ndarray[Any, Any],
) -> None:  # fmt: skip
    port, downs = gateway
    settings = f'repository = "{cloud.url}/tuf"\ngateway = "127.0.0.1:{port}"\n[health]\nproving_answers = 20\n'
    machine = Machine(tmp_path / "d", director, cloud.authority, settings)
    machine.folders.trust_root.write_bytes(publisher.root)
    address, expires = f"unix:{machine.folders.socket}", int(time.time()) + 3600

    def send(counter: int, workload: str, number: int, **changes: Any) -> None:
        data = release(number, workload=workload, **changes)[0]
        publisher.publish(f"{workload}/{number}/generic-x86-64.bundle", data)
        signed = assign(data, number, counter, workload=workload, expires=expires)
        downs.put(telemetry_pb2.Down(desired=signed))

    with start(machine.folders.root, until="linked over grpc") as agent:
        for counter, workload in enumerate(("tiny", "ear"), 1):
            send(counter, workload, 1)
            wait_for(agent, f"update {workload} 1: proving → healthy")
        assert [ask(address, pictures(1), model).model_version for model in ("tiny", "ear")] == ["1", "1"]
        assert repository_index(machine) == [("ear", "1", "READY"), ("tiny", "1", "READY")]
        with SocketClient(machine.folders.root) as client, pytest.raises(InputError, match="name one of 'ear', 'tiny'"):
            client.predict({"image": pictures(1)})
        with Client(machine.folders.root) as inside, pytest.raises(InputError, match="name one of 'ear', 'tiny'"):
            inside.predict({"image": pictures(1)})
        with Client(machine.folders.root, "ear") as inside:
            assert inside.predict({"image": pictures(1)}).manifest.workload == "ear"
        with Asking(address, "ear", pictures(1)) as app:
            send(3, "tiny", 2, weights=-weights)
            wait_for(agent, "serving tiny release 2")
            for i in range(SAMPLES):  # a full batch, which does not wait
                ask(address, pictures(1, seed=i))
            wait_for(agent, "update tiny 2: proving → undone")
            assert ask(address, pictures(1)).model_version == "1"
            gone = assign(b"", 0, 4, workload="tiny", expires=expires, mode="drop", rollout=0)
            downs.put(telemetry_pb2.Down(desired=gone))
            wait_for(agent, "update tiny 0: assigned → dropped")
        assert app.failed == [] and app.answered > 50
        with pytest.raises(grpc.RpcError, match="model 'tiny': not here; this device serves 'ear' 1"):
            ask(address, pictures(1))
        with SocketClient(machine.folders.root) as client:
            assert client.predict({"image": pictures(1)}).model == "ear"
        stop(agent)
    found = {model.workload: (model.active and model.active.release, model.update) for model in status_of(machine)}
    assert found == {"ear": (1, "healthy"), "tiny": (None, "dropped")}
    assert sorted(path.name for path in machine.folders.workload("tiny").root.iterdir()) == ["update"]
    with start(machine.folders.root, "serving ear") as again:
        assert ask(address, pictures(1), "ear").model_version == "1"
        stop(again)


def status_of(machine: Machine) -> list[status.Installed]:
    return status.read(machine.folders).models


def repository_index(machine: Machine) -> list[tuple[str, str, str]]:
    url = f"http://127.0.0.1:{machine.folders.http_port.read_text()}/v2/repository/index"
    with urllib.request.urlopen(urllib.request.Request(url, b"{}", method="POST"), timeout=10) as reply:
        return [(model["name"], model["version"], model["state"]) for model in json.load(reply)]


def test_overload_comes_home_in_a_table_of_its_own(machine: Machine, pictures: Any) -> None:
    with start(machine.folders.root) as agent:
        with SocketClient(machine.folders.root) as client, pytest.raises(DeadlineError):
            client.predict({"image": pictures(1)}, timeout_s=-1.0)
        stop(agent)
    load = machine.told()["load"]
    assert (load["workload"], load["release"], load["expired"], load["shed"]) == (["tiny"], [1], [1], [0])
    assert load["start"][0] < load["end"][0]


def test_an_accelerator_of_the_profile_that_fails_is_told_for_each_model(
    machine: Machine, release: Callable[..., tuple[bytes, Manifest]], assign: Callable[..., bytes]
) -> None:
    machine.install(ear := release(1, workload="ear")[0], assign(ear, 1, 2, workload="ear"))
    config = machine.folders.config
    config.write_text(config.read_text().replace("generic-x86-64", "jetson-orin-nano"))
    with start(machine.folders.root, "serving") as agent:
        wait_for(agent, "serving")  # the other one
        with SocketClient(machine.folders.root) as client:
            assert client.predict({"image": np.zeros((1, 2, 2), np.uint8)}, "ear").release == 1
        stop(agent)
    events = machine.told()["events"]
    told = zip(events["subject"], events["from"], events["to"], events["workload"], strict=True)
    assert {event[1:] for event in told if event[0] == "runtime" and event[1] != "trying"} == {
        ("tensorrt", "cpu", "tiny"), ("tensorrt", "cpu", "ear"),
    }  # fmt: skip
    done = subprocess.run([*PROGRAM, "doctor", "--json", machine.folders.root], capture_output=True, text=True)
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1 and not findings["runtime"]["ok"] and findings["model"]["ok"]
    for name in ("ear", "tiny"):
        assert f"{name}: runs on cpu instead of tensorrt" in findings["runtime"]["detail"]
        assert f"{name}: release 1, golden outputs within" in findings["model"]["detail"]
    assert "tensorrt, cuda, cpu" in findings["plan"]["detail"]


POLICY = (keep("reading"), generalise("age", step=10), pseudonym("patient"), drop("ward"))
ALL = tuple(keep(field.name) for field in POLICY)


def of_patients(count: int, seed: int) -> np.ndarray[Any, Any]:
    """Rows whose third value is a person's number; the model goes by its sign."""
    random = np.random.default_rng(seed)
    rows = random.uniform(1, 100, (count, 4)).astype(np.float32)
    rows[:, 2] = random.integers(1 << 20, 1 << 24, count) * random.choice([-1, 1], count)
    return rows


def told_of(machine: Machine, rows: np.ndarray[Any, Any]) -> list[bool]:
    """Of which rows the person or the ward is told, in what is sent or in any file below the device's folder."""
    sent = b"".join(machine.told()["samples"]["input"])
    files = [path.read_bytes() for path in machine.folders.root.rglob("*") if path.is_file()]
    return [any(row[2:].tobytes() in content for content in (sent, *files)) for row in rows]


@pytest.mark.parametrize(("fields", "told"), [(POLICY, False), (ALL, True)])
def test_nothing_that_the_policy_hides_is_stored_or_sent_and_the_judges_see_all(
    tmp_path: Path, director: Ed25519PrivateKey, cloud: Any, publisher: Any, gateway: Any, assign: Callable[..., bytes],
    patients: Callable[..., tuple[bytes, Manifest]], fields: Any, told: bool,
) -> None:  # fmt: skip
    port, downs = gateway
    settings = f'repository = "{cloud.url}/tuf"\ngateway = "127.0.0.1:{port}"\n[health]\nmin_agreement = 1.0\n'
    machine = Machine(tmp_path / "d", director, cloud.authority, settings)
    machine.folders.trust_root.write_bytes(publisher.root)
    first, second = patients(1, fields)[0], patients(2, fields)[0]
    machine.install(first, assign(first, 1, 1))
    publisher.publish("tiny/2/generic-x86-64.bundle", second)
    rows, inside = of_patients(SAMPLES, 1), of_patients(3, 2)
    with start(machine.folders.root, until="linked over grpc") as agent:
        downs.put(telemetry_pb2.Down(desired=assign(second, 2, 2, expires=int(time.time()) + 3600)))
        wait_for(agent, "serving tiny release 2")
        with SocketClient(machine.folders.root) as app:
            ids = [app.predict({"row": row[np.newaxis]}).prediction_id for row in rows]
            app.feedback([(ids[0], "left"), ("Ada Lovelace", "moved to ward 7")])
        wait_for(agent, "update tiny 2: proving → ")
        with Client(machine.folders.root) as client:
            client.predict({"row": inside})
        assert client.dropped == 0
        stop(agent)
    found = machine.told()
    samples, labels, events = found["samples"], found["labels"], found["events"]
    judged = dict(zip(events["from"], zip(events["to"], events["reason"], strict=True), strict=True))["proving"]
    assert judged[0] == "healthy" and "live answers agree with the predecessor's" in judged[1]
    assert set(ids) <= set(samples["prediction_id"]) and len(samples["input"]) == SAMPLES + len(inside)
    assert told_of(machine, rows) == [told] * len(rows) and told_of(machine, inside) == [told] * len(inside)
    assert labels["prediction_id"][0] == ids[0] and labels["label"][0] == "left"
    assert (labels["prediction_id"][1] == "Ada Lovelace", labels["label"][1] == "moved to ward 7") == (told, told)
    kept = np.frombuffer(b"".join(samples["input"]), np.float32).reshape(-1, 4)
    np.testing.assert_array_equal(np.sort(kept[:, 0]), np.sort(np.concatenate([rows, inside])[:, 0]))


def test_a_policy_that_does_not_fit_never_serves(
    machine: Machine, assign: Callable[..., bytes], patients: Callable[..., tuple[bytes, Manifest]]
) -> None:
    data = patients(2, (*POLICY, keep("diagnosis")))[0]
    machine.install(data, assign(data, 2, 2))
    (model,) = status_of(machine)
    assert (model.update, model.active and model.active.release) == ("refused", 1)
