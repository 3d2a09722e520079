"""The daemon: constructs the flows, connects them, and stops them in order. Decides nothing itself.

uplink ── assignments ──▶ update ── the proven model ──▶ engine ◀── requests ── serve
   ▲                        │ events                       │ answers              │ reports of applications
   └──────── outbox ◀───────┴───────── recorder ◀──────────┴──────────────────────┘
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from skerry_edge import memory, renewal
from skerry_edge.config import AgentConfig, Folders, load
from skerry_edge.infer.choose import Choice, runs_at_once
from skerry_edge.infer.engine import Active, Engine
from skerry_edge.infer.engines import Engines
from skerry_edge.infer.models import Chosen, Loader, Settings
from skerry_edge.infer.scheduler import Limits
from skerry_edge.machine import this_machine, versions
from skerry_edge.notify import READY, STOPPING, WATCHDOG, Notifier
from skerry_edge.observe.arrow import encode
from skerry_edge.observe.events import EventLog
from skerry_edge.observe.outbox import Outbox
from skerry_edge.observe.recorder import Recorder, label_rows, read_samples
from skerry_edge.observe.spool import Spool
from skerry_edge.observe.uplink import Uplink
from skerry_edge.protect.guard import Guard, Guarded
from skerry_edge.protect.strain import Strain, allowance
from skerry_edge.protect.watchdog import PERIOD_S, Watchdog
from skerry_edge.serve import listen, local, oip
from skerry_edge.serve.catalog import Catalog
from skerry_edge.serve.http1 import HttpServer
from skerry_edge.serve.socket_server import SocketServer
from skerry_edge.update.flow import Live, Transition, UpdateFlow, World
from skerry_edge.update.plan import Device
from skerry_edge.update.slots import Slots
from skerry_edge.update.state import StateFile
from skerry_edge.update.worker import Worker
from skerry_edge.upkeep import Upkeep
from skerry_shared import profiles, telemetry
from skerry_shared.bundle import Bundle
from skerry_shared.errors import SkerryError
from skerry_shared.files import write_durably
from skerry_shared.identity import load_key, utc
from skerry_shared.locking import locked
from skerry_shared.ports.carrier import TlsFiles, Transport
from skerry_shared.ports.runtime import Model
from skerry_shared.profiles import Thermal
from skerry_shared.sealing import Sealer
from skerry_shared.signing import load_public

log = logging.getLogger(__name__)

SWITCH_S = 0.0005  # after which a thread that computes lets a request go on; Python's own 5 ms are many answers long
RENEW_S = 3600.0  # between looks at the certificate, which has a third of its life left when one finds it old
TICK_S = 1.0  # how late a window or a sample may be
GRACE_S = 2.0  # that requests in flight get at the end
CORES = os.cpu_count() or 1  # a run has the configured number of threads
WAITING = 64  # requests that may wait for a model
LIVES = {"loop": 30.0, "worker": 900.0}  # seconds between signs of life; an engine was seen to build for 570


class Agent:
    """One device's daemon. Construct it with the folder locked, then ``run`` once."""

    def __init__(self, folders: Folders, config: AgentConfig) -> None:
        """Opens the folder's state and spool; nothing runs yet."""
        self._folders, self._config = folders, config
        self._spool = Spool(folders.spool, config.spool_mb << 20)
        self._outbox = Outbox(self._spool, _sealer(folders, config))
        self._events = EventLog(folders.events, self._outbox.put)
        settings = Settings(config.providers, config.threads, config.model_mb << 20)
        self._engine, self._loader = Engine(), Loader(Engines(folders.engines), settings, self._progress)
        self._recorder: Recorder | None = None
        self._flow = flow = UpdateFlow(self._world(), Slots(folders.slots, folders.active), StateFile(folders.update))
        self._notifier, self._ready, self._strain = Notifier(), False, Strain.NONE
        period = (self._notifier.watchdog_s or 3 * PERIOD_S) / 3
        alive = lambda: self._notifier.tell(WATCHDOG)  # noqa: E731
        self._watchdog = Watchdog(LIVES, alive, time.monotonic, period)
        self._worker = Worker(flow, self._on_beat)
        self._upkeep = Upkeep(config.protect, _thermal(config), self._worker, self._relieve, time.monotonic)
        self._uplink = Uplink(self._outbox, _transports(folders, config), self._worker.desire)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; what was recorded is in the spool when this returns."""
        stopping = _on_signals()
        servers = self._serve()
        self._tell("", "started")
        self._watchdog.start()
        updates = asyncio.create_task(asyncio.to_thread(self._worker.run))
        parts = (stopping.wait(), self._tick(), self._uplink.run(), self._stay_certified())
        others = [asyncio.create_task(work) for work in parts]
        ended, _ = await asyncio.wait([updates, *others], return_when=asyncio.FIRST_COMPLETED)
        self._notifier.tell(STOPPING)
        await asyncio.to_thread(servers.stop)
        self._worker.close()
        await asyncio.wait([updates])  # after its present step; it may still swap models and report
        await asyncio.to_thread(self._finish, updates.exception() is None)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for task in ended:
            task.result()  # what ended by an error ends the agent, and whoever started it starts it again

    def _on_beat(self) -> None:
        """The worker came round; the first time it has loaded what this device can answer with."""
        self._watchdog.beat("worker")
        if not self._ready:
            self._ready = self._notifier.tell(READY) or True

    def _finish(self, in_order: bool) -> None:
        self._watchdog.close()
        if in_order:
            self._flow.settle()
        for port in (self._folders.port, self._folders.http_port):
            port.unlink(missing_ok=True)
        if self._recorder:
            self._recorder.close()
        self._tell("started", "stopped")
        self._spool.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._watchdog.beat("loop")
            await asyncio.to_thread(self._upkeep.tick)
            if recorder := self._recorder:
                await asyncio.to_thread(recorder.tick)

    async def _stay_certified(self) -> None:
        while True:
            await asyncio.to_thread(self._renew)
            await asyncio.sleep(RENEW_S)

    def _renew(self) -> None:
        folders, url = self._folders, self._config.cloud
        if not url or not renewal.due(folders.certificate.read_bytes(), utc(time.time())):
            return
        try:
            until = renewal.renew(url, folders)
            self._tell("certified", "certified", f"until {until:%Y-%m-%d}")
        except SkerryError as error:
            log.warning("certificate: not renewed, asked again in %.0f s: %s", RENEW_S, error)

    def _world(self) -> World:
        folders, config = self._folders, self._config
        return World(
            device=_device(config),
            director=load_public(folders.director.read_bytes()),
            repository=_Repository(folders, config),
            load=self._load,
            serve=self._activate,
            report=self._report,
            clock=time.time,
            timer=time.monotonic,
            health=config.health,
            shadow=config.shadow,
            compared=self._report_shadow,
        )

    def _load(self, bundle: Bundle) -> Chosen:
        """Try and load a model; one that does not run on the accelerator that was configured is an event."""
        threads = allowance(self._strain, self._config.threads).threads
        chosen, manifest = self._loader.load(bundle, threads), bundle.manifest
        choice, about = chosen.choice, {"workload": manifest.workload, "release": manifest.release, "rollout": 0}
        log.info("%s release %d runs on %s", manifest.workload, manifest.release, choice.reason)
        if choice.fallback_from:
            change = {"time": time.time(), "subject": "runtime", "from": choice.fallback_from, "to": choice.provider}
            self._events.add(change | {"reason": choice.reason} | about)
        return chosen

    def _progress(self, what: str) -> None:
        about = {"workload": "", "release": 0, "rollout": 0}
        change = {"time": time.time(), "subject": "runtime", "from": "trying", "to": "trying", "reason": what}
        self._events.add(change | about)

    def _activate(self, live: Live | None) -> None:
        """Let this model answer and be recorded from now on."""
        before, self._recorder = self._recorder, None
        if live is None:
            self._engine.swap(None)
        else:
            manifest, config = live.bundle.manifest, self._config
            recorder = Recorder(manifest, self._sink, config.window_s, self._sample_rate, time.time)
            guard = Guard(len(manifest.labels), config.protect)
            failed = lambda: self._worker.failed(manifest.release)  # noqa: E731
            guarded = Guarded(live.model, guard)
            self._engine.swap(Active(manifest, guarded, recorder.observe, failed, _limits(live.model)))
            self._recorder = recorder
            self._upkeep.watch(manifest.release, guard)
            log.info("serving %s release %d", manifest.workload, manifest.release)
        if before:
            before.close()

    @property
    def _sample_rate(self) -> float:
        return self._config.sample_rate * allowance(self._strain, self._config.threads).sample_share

    def _relieve(self, after: Strain, why: str) -> None:
        """Do as much as the board can bear from now on."""
        before, self._strain = self._strain, after
        log.warning("board: %s → %s: %s", before.name, after.name, why)
        if recorder := self._recorder:
            recorder.sample_at(self._sample_rate)
        self._tell(f"strain {before.name.lower()}", f"strain {after.name.lower()}", why)

    def _sink(self, table: str, payload: bytes) -> None:
        """Pass a batch to the outbox; samples of a model that is being proven also to the update."""
        manifest = self._engine.manifest
        if table == "samples" and manifest and self._wants_samples:
            for prediction_id, inputs, scores in read_samples(manifest, payload):
                self._worker.sample(manifest.release, prediction_id, inputs, scores)
        self._outbox.put(table, payload)

    @property
    def _wants_samples(self) -> bool:
        spare = allowance(self._strain, self._config.threads).shadow
        return self._worker.proving or (self._worker.shadowing and spare)

    def _learn(self, truths: Sequence[tuple[str, str]]) -> None:
        """Pass late labels, as (prediction id, label), to the outbox and to an update that is being proven."""
        if self._worker.proving:
            for prediction_id, label in truths:
                self._worker.learn(prediction_id, label)
        self._outbox.put("labels", label_rows(time.time(), truths))

    def _serve(self) -> "_Servers":
        folders, config = self._folders, self._config
        catalog = Catalog(self._engine)
        inference, reports = oip.handlers(catalog), local.handlers(self._sink, self._learn)
        place = listen.Place(config.listen.address, _identity(folders) if config.listen.mtls else None)
        unix, _ = listen.start_grpc(f"unix:{folders.socket}", None, inference, reports)
        tcp, port = listen.grpc_server(place, config.grpc_port, inference)
        http = listen.http_server(place, config.http_port, catalog)
        write_durably(folders.http_port, str(http.port).encode())
        write_durably(folders.port, str(port).encode())
        log.info("inference on %s: gRPC %d, REST %d; and %s", place.address, port, http.port, folders.socket)
        return _Servers([unix, tcp], http, SocketServer(folders.frames, self._engine, self._learn))

    def _report_shadow(self, row: dict[str, Any]) -> None:
        self._outbox.put("shadow", telemetry.pack(encode("shadow", {name: [value] for name, value in row.items()})))

    def _report(self, change: Transition) -> None:
        log.info("update %s: %s → %s: %s", change.release, change.before or "-", change.after, change.reason)
        self._events.add(
            {
                "time": change.time, "subject": "update", "from": change.before, "to": change.after,
                "reason": change.reason, "workload": change.workload, "release": change.release,
                "rollout": change.rollout,
            }
        )  # fmt: skip

    def _tell(self, before: str, after: str, reason: str = "") -> None:
        about = {"workload": "", "release": 0, "rollout": 0}
        reason = reason or versions()
        change = {"time": time.time(), "subject": "agent", "from": before, "to": after, "reason": reason}
        self._events.add(change | about)


async def run(folder: Path) -> None:
    """Run the agent of ``folder``. Raises ConfigError, or StateError if one runs already."""
    folders = Folders(folder)
    config = load(folders)
    memory.share_heap()
    sys.setswitchinterval(SWITCH_S)
    folders.run.mkdir(mode=0o700, exist_ok=True)
    with locked(folders.lock, "an agent"):
        for port in (folders.port, folders.http_port):  # of an agent that was killed
            port.unlink(missing_ok=True)
        for path in (folders.state, folders.slots):
            path.mkdir(exist_ok=True)
        await Agent(folders, config).run()


class _Repository:
    """The repository, loaded when something is fetched: TUF and HTTPS are of no use to an agent that only serves."""

    def __init__(self, folders: Folders, config: AgentConfig) -> None:
        self._folders, self._url = folders, config.repository

    def fetch(self, path: str, sha256: str, length: int) -> bytes:
        from skerry_edge.adapters.repository_tuf import Repository

        folders = self._folders
        repository = Repository(self._url, folders.authority, folders.trust_root, folders.tuf, time.time)
        return repository.fetch(path, sha256, length)


def _limits(model: Model) -> Limits:
    """What was measured of the model says whether runs are worth sharing."""
    choice = model.choice if isinstance(model, Chosen) else Choice("cpu", 1, "not measured")
    return Limits(threads=runs_at_once(choice, CORES), waiting=WAITING, batch=choice.batch)


def _device(config: AgentConfig) -> Device:
    return Device(config.fleet, config.device, *this_machine())


def _thermal(config: AgentConfig) -> Thermal:
    """Of the profile; a fleet may have one that this agent has no file of."""
    return profiles.load(config.profile).thermal if config.profile in profiles.names() else Thermal()


def _sealer(folders: Folders, config: AgentConfig) -> Sealer:
    certificate, key = folders.certificate.read_bytes(), load_key(folders.key.read_bytes())
    return Sealer(config.fleet, config.device, certificate, key, folders.ingest.read_bytes())


def _transports(folders: Folders, config: AgentConfig) -> list[Transport]:
    return [_transport(name, config, _identity(folders)) for name in config.transports]


def _identity(folders: Folders) -> TlsFiles:
    return TlsFiles(folders.authority, folders.certificate, folders.key)


def _transport(name: str, config: AgentConfig, identity: TlsFiles) -> Transport:
    if name == "grpc":
        from skerry_edge.adapters.transport_grpc import GrpcTransport

        return GrpcTransport(config.gateway, identity)
    from skerry_edge.adapters.transport_mqtt import MqttTransport

    host, _, port = config.mqtt.rpartition(":")
    return MqttTransport(host, int(port), config.fleet, config.device, identity)


@dataclass(frozen=True)
class _Servers:
    grpc: Sequence[grpc.Server]
    http: HttpServer
    frames: SocketServer

    def stop(self) -> None:
        """Let requests in flight finish, for GRACE_S seconds at most."""
        stopping = [server.stop(GRACE_S) for server in self.grpc]
        self.http.stop(GRACE_S)
        self.frames.stop(GRACE_S)
        for stopped in stopping:
            stopped.wait()


def _on_signals() -> asyncio.Event:
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping
