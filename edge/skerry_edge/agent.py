"""The daemon: constructs the flows, connects them, and stops them in order. Decides nothing itself.

uplink ── assignments ──▶ workloads ── proven models ──▶ engine ◀── requests ── serve
   ▲                        │ events                       │ answers              │ reports of applications
   └──────── outbox ◀───────┴───────── recorders ◀─────────┴──────────────────────┘
"""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from skerry_edge import memory, renewal
from skerry_edge.config import AgentConfig, Folders, WorkloadFolder, load
from skerry_edge.infer.choose import Finding
from skerry_edge.infer.engine import Engine
from skerry_edge.infer.engines import Engines, device_class
from skerry_edge.infer.models import Loader
from skerry_edge.machine import budget_mb, settings_of, thermal_of, this_machine, versions
from skerry_edge.notify import READY, STOPPING, WATCHDOG, Notifier
from skerry_edge.observe.arrow import Rows, pack, unpack
from skerry_edge.observe.events import EventLog
from skerry_edge.observe.homeward import Homeward
from skerry_edge.observe.load import LoadLog
from skerry_edge.observe.losses import LossLog
from skerry_edge.observe.outbox import Outbox
from skerry_edge.observe.recorder import label_rows, read_samples
from skerry_edge.observe.redact import Redactor, pseudonym_key
from skerry_edge.observe.service import ServiceLog
from skerry_edge.observe.span import Span
from skerry_edge.observe.uplink import Limits, Uplink
from skerry_edge.protect.strain import Allowance, Strain, allowance
from skerry_edge.protect.watchdog import PERIOD_S, Watchdog
from skerry_edge.serve import listen, local, oip
from skerry_edge.serve.catalog import Catalog
from skerry_edge.serve.http1 import HttpServer
from skerry_edge.serve.socket_server import SocketServer
from skerry_edge.serving import Serving
from skerry_edge.update.bench import Bench, Row, Site
from skerry_edge.update.flow import UpdateFlow
from skerry_edge.update.memory import Memory
from skerry_edge.update.plan import Device, Floor, Order, authenticate
from skerry_edge.update.slots import Slots
from skerry_edge.update.state import StateFile
from skerry_edge.update.worker import BEAT_S, Driver
from skerry_edge.update.workloads import Workloads
from skerry_edge.update.world import Door, Live, Transition, World
from skerry_edge.upkeep import Upkeep
from skerry_shared import telemetry
from skerry_shared.bundle import Bundle
from skerry_shared.errors import SkerryError
from skerry_shared.files import sync_folder, write_durably
from skerry_shared.identity import load_key, utc
from skerry_shared.locking import locked, turn
from skerry_shared.ports.carrier import TlsFiles, Transport
from skerry_shared.release import Manifest
from skerry_shared.sealing import Sealer
from skerry_shared.signing import load_public

log = logging.getLogger(__name__)

RENEW_S = 3600.0  # between looks at the certificate, which has a third of its life left when one finds it old
TICK_S = 1.0  # how late a window or a sample may be
GRACE_S = 2.0  # that requests in flight get at the end
FETCHES = threading.Lock()
KBPS = 125  # bytes a second
LOOP_S, UPDATE_S = 30.0, 900.0  # seconds between signs of life; an engine was seen to build for 570
BENCH = "bench"  # the name of its thread, for the watchdog


class Agent:
    """One device's daemon. Construct it with the folder locked, then ``run`` once."""

    def __init__(self, folders: Folders, config: AgentConfig) -> None:
        """Opens the folder's spool; nothing runs yet."""
        self._folders, self._config, self._settings = folders, config, settings_of(config)
        self._outbox = Outbox(folders.spool, config.spool_mb << 20, partial(_sealer, folders, config))
        self._homeward = Homeward(
            config.sample_mb_day * 1e6, config.sample_lossy, self._outbox.put, self._outbox.exceeded, time.monotonic
        )
        self._events = EventLog(folders.events, self._outbox.put)
        installed = (manifest for folder in folders.workloads() for manifest in Slots(folder.root).manifests())
        self._redactor = Redactor(pseudonym_key(folders.pseudonyms), installed)
        self._engine, self._strain, self._notifier = Engine(), Strain.NONE, Notifier()
        period = (self._notifier.watchdog_s or 3 * PERIOD_S) / 3
        alive = lambda: self._notifier.tell(WATCHDOG)  # noqa: E731
        self._watchdog = Watchdog({"loop": LOOP_S}, alive, time.monotonic, period)
        self._device, self._director = _device(config), load_public(folders.director.read_bytes())
        self._memory, self._floor = Memory(budget_mb(config)), Floor(time.time)
        door = Door(self._report, time.time)
        beat_bench = partial(self._watchdog.beat, BENCH)
        self._bench = Driver(BENCH, Bench(self._site(), folders.bench, door), beat_bench, self._on_broken)
        self._workloads = Workloads(
            self._authenticate, self._open, door, self._on_beat, self._on_broken, self._bench.desire
        )
        self._loading = {folder.name for folder in folders.workloads()}  # whose models do not serve yet
        self._ready = False
        self._upkeep = Upkeep(config.protect, thermal_of(config), self._workloads, self._relieve, time.monotonic)
        self._service = ServiceLog(lambda: self._upkeep.condition, self._outbox.put, Span(config.window_s))
        self._serving = Serving(self._engine, config, self._sink, self._workloads.failed, self._upkeep, self._service)
        limits = Limits(bytes_s=config.drain_kbps * KBPS)
        self._uplink = Uplink(self._outbox, _transports(folders, config), self._workloads.desire, limits)

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; what was recorded is in the spool when this returns."""
        stopping, self._broken = _on_signals(), asyncio.get_running_loop().create_future()
        servers = self._serve()
        put, window_s = self._outbox.put, self._config.window_s
        self._load_log = LoadLog(self._engine.loads, servers.refused, put, Span(window_s))
        self._loss_log = LossLog(self._folders.losses, self._outbox.lost, put, Span(window_s))
        self._tell("", "started")
        self._watchdog.start()
        self._workloads.start(sorted(self._loading))
        self._watchdog.expect(BENCH, UPDATE_S)
        self._bench.start()
        parts = (stopping.wait(), self._tick(), self._uplink.run(), self._stay_certified())
        work = [asyncio.ensure_future(part) for part in parts]
        ended, _ = await asyncio.wait([self._broken, *work], return_when=asyncio.FIRST_COMPLETED)
        self._notifier.tell(STOPPING)
        await asyncio.to_thread(servers.stop)
        await asyncio.to_thread(self._finish)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        for end in ended:
            end.result()  # what ended by an error ends the agent, and whoever started it starts it again

    def _finish(self) -> None:
        self._bench.close()
        self._workloads.close(in_order=not self._broken.done())
        self._bench.join()
        self._watchdog.close()
        for port in (self._folders.port, self._folders.http_port):
            port.unlink(missing_ok=True)
        self._serving.close()
        self._service.flush()
        self._load_log.flush()
        self._loss_log.flush()
        self._tell("started", "stopped")
        self._outbox.close()

    def _on_beat(self, workload: str) -> None:
        """A worker came round; the first time it has loaded what this device can answer with."""
        self._watchdog.beat(_part(workload))
        self._loading.discard(workload)
        self._tell_ready()

    def _tell_ready(self) -> None:
        """Once all that is installed serves; again and again while the supervisor is too busy to hear it."""
        if not (self._loading or self._ready):
            self._ready = self._notifier.tell(READY)

    def _on_broken(self, error: Exception) -> None:
        """A worker ended by an error; called in its thread."""
        self._broken.get_loop().call_soon_threadsafe(_settle, self._broken, error)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._watchdog.beat("loop")
            self._tell_ready()
            await asyncio.to_thread(self._upkeep.tick)
            await asyncio.to_thread(self._serving.tick)
            await asyncio.to_thread(self._service.tick)
            await asyncio.to_thread(self._load_log.tick)
            await asyncio.to_thread(self._loss_log.tick)

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

    def _authenticate(self, data: bytes) -> Order:
        return authenticate(data, self._director, self._device)

    def _open(self, workload: str) -> UpdateFlow:
        """The flow of a workload that this device has, or is to have."""
        folder = self._folders.workload(workload)
        folder.root.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.root.parent)
        self._watchdog.expect(_part(workload), UPDATE_S)
        return UpdateFlow(self._world(folder), Slots(folder.root), StateFile(folder.update))

    def _world(self, folder: WorkloadFolder) -> World:
        config, workload = self._config, folder.name
        loader = Loader(Engines(folder.engines), self._settings, partial(self._progress, workload))
        return World(
            workload=workload,
            device=self._device,
            repository=_Repository(self._folders, config, partial(self._watchdog.beat, _part(workload))),
            memory=self._memory,
            floor=self._floor,
            load=partial(self._load_model, loader),
            serve=partial(self._activate, workload),
            report=self._report,
            clock=time.time,
            timer=time.monotonic,
            health=config.health,
            shadow=config.shadow,
            compared=self._report_shadow,
        )

    def _site(self) -> Site:
        return Site(
            device=self._device,
            device_class=device_class(),
            repository=_Repository(self._folders, self._config, partial(self._watchdog.beat, BENCH)),
            floor=self._floor,
            occupied=self._occupied,
            survey=self._survey,
            report=self._report_benchmark,
            clock=time.time,
        )

    def _occupied(self) -> str:
        return f"the board is {self._strain.name.lower()}" if self._strain else self._workloads.occupied()

    def _survey(self, candidate: Bundle, progress: Callable[[str], None]) -> list[Finding]:
        """Try a candidate on each provider, and keep nothing of what that builds."""

        def tell(what: str) -> None:
            self._watchdog.beat(BENCH)
            progress(what)

        return Loader(Engines(candidate.model.parent / "engines"), self._settings, tell).survey(candidate)

    def _load_model(self, loader: Loader, bundle: Bundle) -> Live:
        """Try and load a model; one that does not run on the accelerator that was configured is an event."""
        chosen, manifest = loader.load(bundle, self._allowed.threads), bundle.manifest
        choice = chosen.choice
        log.info("%s release %d runs on %s", manifest.workload, manifest.release, choice.reason)
        if choice.fallback_from:
            change = (choice.fallback_from, choice.provider, choice.reason)
            self._tell(*change, subject="runtime", workload=manifest.workload, release=manifest.release)
        return Live(bundle, chosen, choice.memory_mb)

    def _progress(self, workload: str, what: str) -> None:
        self._watchdog.beat(_part(workload))
        self._tell("trying", "trying", what, subject="runtime", workload=workload)

    def _activate(self, workload: str, live: Live | None) -> None:
        if live:
            self._redactor.know(live.bundle.manifest)
            self._serving.activate(live.bundle.manifest, live.model)
        else:
            self._serving.drop(workload)

    @property
    def _allowed(self) -> Allowance:
        return allowance(self._strain, self._config.threads)

    def _relieve(self, after: Strain, why: str) -> None:
        """Do as much as the board can bear from now on."""
        before, self._strain = self._strain, after
        log.warning("board: %s → %s: %s", before.name, after.name, why)
        self._serving.sample_at(self._config.sample_rate * self._allowed.sample_share)
        self._engine.serve_from(self._allowed.priority)
        self._tell(f"strain {before.name.lower()}", f"strain {after.name.lower()}", why)

    def _sink(self, table: str, rows: Rows) -> None:
        """Pass on what was recorded here."""
        if table == "samples":
            self._pass_samples(rows)
        else:
            self._outbox.put(table, pack(table, rows))

    def _hear(self, table: str, payload: bytes) -> None:
        """Pass on what an application recorded."""
        if table == "samples":
            self._pass_samples(unpack(table, payload))
        else:
            self._outbox.put(table, payload)

    def _pass_samples(self, rows: Rows) -> None:
        """What may be kept goes homeward, but all of them to updates that are being proven."""
        for manifest in self._wanting_samples():
            for prediction_id, inputs, scores in read_samples(manifest, rows):
                self._workloads.sample(manifest.workload, manifest.release, prediction_id, inputs, scores)
        self._homeward.send(self._redactor.samples(rows))

    def _wanting_samples(self) -> list[Manifest]:
        names = self._workloads.proving() | (self._workloads.shadowing() if self._allowed.shadow else set())
        return [manifest for manifest in self._engine.manifests() if manifest.workload in names]

    def _learn(self, truths: Sequence[tuple[str, str]]) -> None:
        """Pass late labels, as (prediction id, label), to updates that are being proven, and what may be kept to the
        outbox."""
        for prediction_id, label in truths:
            self._workloads.learn(prediction_id, label)
        self._outbox.put("labels", label_rows(time.time(), self._redactor.truths(truths)))

    def _serve(self) -> "_Servers":
        folders, config = self._folders, self._config
        catalog = Catalog(self._engine, self._learn)
        inference, reports = oip.handlers(catalog), local.handlers(self._hear, self._learn)
        place = listen.Place(config.listen.address, _identity(folders) if config.listen.mtls else None)
        unix, _ = listen.start_grpc(f"unix:{folders.socket}", None, inference, reports)
        tcp, port = listen.grpc_server(place, config.grpc_port, inference)
        http = listen.http_server(place, config.http_port, catalog)
        write_durably(folders.http_port, str(http.port).encode())
        write_durably(folders.port, str(port).encode())
        log.info("inference on %s: gRPC %d, REST %d; and %s", place.address, port, http.port, folders.socket)
        return _Servers([unix, tcp], http, SocketServer(folders.frames, self._engine, self._learn))

    def _report_shadow(self, row: dict[str, Any]) -> None:
        self._put("shadow", [row])

    def _report_benchmark(self, rows: Sequence[Row]) -> None:
        self._put("measured", rows)
        said = "; ".join(f"{row['provider']} {row['fault'] or format(row['p50_ms'], '.3g') + ' ms'}" for row in rows)
        self._tell("measuring", "measured", said.strip(), subject="runtime", workload=rows[0]["workload"])

    def _put(self, table: str, rows: Sequence[Row]) -> None:
        columns = {name: [row[name] for row in rows] for name in telemetry.TABLES[table]}
        self._outbox.put(table, pack(table, columns))

    def _report(self, change: Transition) -> None:
        name = f"update {change.workload} {change.release}" if change.workload else "an assignment"
        log.info("%s: %s → %s: %s", name, change.before or "-", change.after, change.reason)
        self._events.add(
            {
                "time": change.time, "subject": "update", "from": change.before, "to": change.after,
                "reason": change.reason, "workload": change.workload, "release": change.release,
                "rollout": change.rollout,
            }
        )  # fmt: skip

    def _tell(
        self, before: str, after: str, reason: str = "", subject: str = "agent", workload: str = "", release: int = 0
    ) -> None:
        change = {"time": time.time(), "subject": subject, "from": before, "to": after, "reason": reason or versions()}
        self._events.add(change | {"workload": workload, "release": release, "rollout": 0})


async def run(folder: Path) -> None:
    """Run the agent of ``folder``. Raises ConfigError, or StateError if one runs already."""
    folders = Folders(folder)
    config = load(folders)
    memory.share_heap()
    folders.run.mkdir(mode=0o700, exist_ok=True)
    with locked(folders.lock, "an agent"):
        for port in (folders.port, folders.http_port):  # of an agent that was killed
            port.unlink(missing_ok=True)
        await Agent(folders, config).run()


class _Repository:
    """The repository, loaded when something is fetched: TUF and HTTPS are of no use to an agent that only serves.

    Its metadata are one workload's as well as another's, so these take turns; who waits says that it is alive.
    """

    def __init__(self, folders: Folders, config: AgentConfig, alive: Callable[[], None]) -> None:
        self._folders, self._url, self._alive = folders, config.repository, alive

    def fetch(self, path: str, sha256: str, length: int) -> bytes:
        from skerry_edge.adapters.repository_tuf import Repository

        folders = self._folders
        repository = Repository(self._url, folders.authority, folders.trust_root, folders.tuf, time.time)
        with turn(FETCHES, BEAT_S, self._alive):
            return repository.fetch(path, sha256, length)


def _device(config: AgentConfig) -> Device:
    return Device(config.fleet, config.device, *this_machine())


def _part(workload: str) -> str:
    """The name of its worker, for the watchdog."""
    return f"update of {workload}"


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

    def refused(self) -> int:
        """Connections that were turned away so far, for there were too many."""
        return self.http.refused + self.frames.refused

    def stop(self) -> None:
        """Let requests in flight finish, for GRACE_S seconds at most."""
        stopping = [server.stop(GRACE_S) for server in self.grpc]
        self.http.stop(GRACE_S)
        self.frames.stop(GRACE_S)
        for stopped in stopping:
            stopped.wait()


def _settle(broken: "asyncio.Future[None]", error: Exception) -> None:
    if not broken.done():
        broken.set_exception(error)


def _on_signals() -> asyncio.Event:
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping
