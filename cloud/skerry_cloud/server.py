"""The cloud's composition root: constructs the parts, connects them, and runs them until told to stop."""

import asyncio
import contextlib
import itertools
import logging
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import uvicorn
from sqlalchemy import select

from skerry_cloud import accuracy, api, config, keys, routes, setup, store
from skerry_cloud.adapters import mosquitto
from skerry_cloud.adapters.carrier_grpc import GrpcCarrier
from skerry_cloud.adapters.carrier_mqtt import MqttCarrier
from skerry_cloud.api import Services
from skerry_cloud.config import CloudConfig, Retrain
from skerry_cloud.drift.flow import DriftFlow
from skerry_cloud.fleet.benchmarks import Benchmarks
from skerry_cloud.fleet.director import Director, Order, channels, origin_of
from skerry_cloud.fleet.enrolment import Addresses, Enrolment, permitted
from skerry_cloud.fleet.links import Links
from skerry_cloud.ingest.flow import Ingest
from skerry_cloud.ingest.lake import QUARANTINE, Lake
from skerry_cloud.ingest.quarantine import Refusals
from skerry_cloud.ingest.samples import Labelled, Unlabelled, labelled, unlabelled_inputs
from skerry_cloud.ingest.upkeep import Policy as Keeping
from skerry_cloud.ingest.upkeep import Upkeep
from skerry_cloud.keys import Keys
from skerry_cloud.learning import Learning
from skerry_cloud.notify.flow import Notifier
from skerry_cloud.release.repository import Repository
from skerry_cloud.retrain.flow import Asked, Retrainer
from skerry_cloud.retrain.harm import Accuracy
from skerry_cloud.retrain.policy import Policies, Policy
from skerry_cloud.store import Bundle, Event, Store
from skerry_shared import __version__, wire
from skerry_shared.errors import NotFoundError
from skerry_shared.locking import locked
from skerry_shared.release import Manifest

log = logging.getLogger(__name__)

LOCK = ".lock"
BEAT = 1.0  # seconds between two looks at rollouts and alarms when nothing happens; news are acted on at once
RENEWAL = 3600.0  # seconds between two looks at the repository's expiry
COMPACTION = 60.0  # seconds between two looks at the lake's small files: some hundred slow readers down
UPKEEP = 60  # looks after which old rows move or go
HTTP_GRACE = 2  # seconds for open answers when the server stops


def serve(folder: Path, say: Callable[[str], None]) -> None:
    """Run the cloud in ``folder`` until SIGINT or SIGTERM; ``say`` gets a line once everybody is served."""
    found = config.load(folder)
    url = found.database_url(folder.resolve())
    with locked(folder.resolve() / LOCK, "a skerry-cloud"):
        store.migrate(url)
        asyncio.run(_serve(folder.resolve(), found, url, say))


async def _serve(folder: Path, found: CloudConfig, url: str, say: Callable[[str], None]) -> None:
    cloud = Cloud(folder, found, Store(url))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with cloud.running() as failed:
        say(f"skerry-cloud: fleet {found.fleet} is served: {cloud.described()}")
        await _first(asyncio.ensure_future(stop.wait()), failed)


class Cloud:
    """All parts of one fleet's cloud."""

    def __init__(self, folder: Path, found: CloudConfig, database: Store) -> None:
        """Nothing runs until ``running``."""
        self._folder, self._config, self._store = folder, found, database
        self._keys = Keys(folder / setup.KEYS)
        keys.renew_own(self._keys, found.listen.hosts, found.ingest.workers, time.time())
        self._repository = Repository(folder / setup.REPOSITORY, self._keys)
        self._lake = Lake(folder / "lake", found.lake.cold_url(folder))
        self._upkeep = Upkeep(self._lake, _keeping(found), database)
        self._refusals = Refusals(database)
        self._news, self._acting = asyncio.Event(), asyncio.Lock()
        authority = self._keys.authority.certificate
        self._director = Director(
            database, self._keys.signer("director"), found.fleet, found.devices.assignment_days, self._assign
        )
        self._benchmarks = Benchmarks(self._director)
        self._learning = Learning(
            database, folder, found.workloads, self._repository, revision(), self._benchmarks,
            found.cost.per_minute, found.compress.ray,
        )  # fmt: skip
        self._ingest = Ingest(
            self._lake, folder / "sessions", found.fleet, authority, self._keys.ingest,
            partial(channels, database), self._acknowledge, self._committed,
        )  # fmt: skip
        self._drift = DriftFlow(database, found.drift.false_alarm_days, found.drift.tolerance, self._learning.normal)
        asked = Asked(self._labelled, self._unlabelled, self._estimate, self._roll_out)
        self._retrainer = Retrainer(database, self._learning, asked, _policies(found), folder / "incoming")
        self._notifier = Notifier(
            database, found.fleet, routes.load(found.alarms, folder), found.alarms.escalate_hours * 3600,
            found.alarms.give_up_days * 86400,
        )  # fmt: skip
        self._has_mqtt = found.listen.mqtt and mosquitto.found() is not None
        self._enrolment = Enrolment(
            database, self._keys, found.fleet, self._repository.root, self._addresses(), found.devices.certificate_days
        )
        self._permit = partial(permitted, database)
        self._links = Links(database, self._ingest.arrived, self._director.desired, self._permit)
        self._background: set[asyncio.Task[Any]] = set()

    def described(self) -> str:
        """Where to reach what."""
        listen = self._config.listen
        mqtt = f"MQTT port {listen.mqtt_port}" if self._has_mqtt else "no MQTT (Mosquitto is not installed or is off)"
        return f"https://{listen.hosts[0]}:{listen.https_port}, gRPC port {listen.grpc_port}, {mqtt}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["asyncio.Future[None]"]:
        """Run every part. Yields a future that fails when a part does; leaving the context stops them all."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._store.close)
            await self._catch_up()
            await self._carry(stack)
            tasks = [asyncio.ensure_future(part) for part in self._parts()]
            self._background.add(asyncio.ensure_future(_guarded(self._learning.resume(), "interrupted runs")))
            stack.push_async_callback(_stop, tasks, self._background)
            server = _Https(self._uvicorn())
            serving = asyncio.ensure_future(server.serve())
            stack.push_async_callback(server.end, serving)
            await server.listening(serving)
            yield asyncio.ensure_future(_first(*tasks, serving))

    async def _catch_up(self) -> None:
        """What a death of this process may have left half done."""
        await self._links.forget()
        await self._learning.recover()
        await self._director.replay((await asyncio.to_thread(self._lake.scan, "events")).to_pylist())
        await self._drift.start(self._windows)

    def _parts(self) -> list[Coroutine[Any, Any, None]]:
        return [
            self._ingest.run(), self._follow(), self._direct(), self._notify(), self._renew(), self._tend(),
            self._retrain(),
        ]  # fmt: skip

    async def _carry(self, stack: AsyncExitStack) -> None:
        listen, tls = self._config.listen, self._keys.tls
        carriers: list[GrpcCarrier | MqttCarrier] = [
            GrpcCarrier(
                f"{listen.address}:{listen.grpc_port}", tls.certificate.read_bytes(), tls.key.read_bytes(),
                tls.authority.read_bytes(), self._permit,
            )
        ]  # fmt: skip
        if self._has_mqtt:
            broker = mosquitto.run_mosquitto(
                self._folder / "mosquitto", listen.mqtt_port, self._config.fleet, tls, listen.address,
                self._config.ingest.workers,
            )  # fmt: skip
            await stack.enter_async_context(broker)
            carriers.append(
                MqttCarrier(
                    listen.hosts[0], listen.mqtt_port, self._config.fleet, self._keys.broker_client,
                    present=self._worker_present,
                )
            )  # fmt: skip
        self._links.over(carriers)
        for carrier in carriers:
            await stack.enter_async_context(carrier.serve(self._links.inbox(carrier)))

    def _uvicorn(self) -> uvicorn.Config:
        listen, tls = self._config.listen, self._keys.tls
        services = Services(
            store=self._store, learning=self._learning, director=self._director, enrolment=self._enrolment,
            authority=tls.authority.read_text(), operator=self._keys.operator,
            drift=self._drift, lake=self._lake, upkeep=self._upkeep, labelled=self._labelled,
            repository=self._folder / setup.REPOSITORY,
            token_seconds=self._config.devices.token_hours * 3600, background=self._background,
            verdicts=self._retrainer.verdicts,
        )  # fmt: skip
        return uvicorn.Config(
            api.create(services), host=listen.address, port=listen.https_port, ssl_certfile=tls.certificate,
            ssl_keyfile=tls.key, log_level="warning", access_log=False, timeout_graceful_shutdown=HTTP_GRACE,
        )  # fmt: skip

    def _addresses(self) -> Addresses:
        listen = self._config.listen
        host = listen.hosts[0]
        return Addresses(
            repository=f"https://{host}:{listen.https_port}/repository",
            gateway=f"{host}:{listen.grpc_port}",
            mqtt=f"{host}:{listen.mqtt_port}" if self._has_mqtt else "",
        )

    async def _acknowledge(self, device: str, down: bytes) -> bool:
        return await self._links.send(device, down)

    async def _assign(self, device: str, signed: bytes) -> None:
        await self._links.assign(device, signed)

    async def _worker_present(self, name: str, online: bool) -> None:
        async with self._store.begin() as session:
            session.add(Event(time=time.time(), kind="ingest", name=name, after="online" if online else "offline",
                              reason="a process that ingests what comes over MQTT", actor=name))  # fmt: skip

    async def _committed(self, table: str, rows: pa.Table) -> None:
        """What came is durable in the lake: act on it, and before on what other processes committed."""
        async with self._acting:
            await _guarded(self._act_on_others(table), "what others committed")
            await self._act(table, rows)

    async def _follow(self) -> None:
        while True:
            for table in self._lake.names:
                async with self._acting:
                    await _guarded(self._act_on_others(table), "what others committed")
            await asyncio.sleep(BEAT)

    async def _act_on_others(self, table: str) -> None:
        if (rows := await asyncio.to_thread(self._lake.news, table)).num_rows:
            await self._act(table, rows)

    async def _act(self, table: str, rows: pa.Table) -> None:
        if table == "events":
            for row in rows.to_pylist():
                await _guarded(self._director.report(row["device"], row, origin_of(row)), "a device's event")
        elif table == "measured":
            self._benchmarks.take(rows.to_pylist())
        elif table == "windows":
            await self._drift.take(rows)
        elif table == QUARANTINE:
            await self._refusals.take(rows)
        self._news.set()

    async def _direct(self) -> None:
        while True:
            await _guarded(self._director.tick(time.time()), "rollouts")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), BEAT)
            self._news.clear()

    async def _notify(self) -> None:
        while True:
            await _guarded(self._notifier.tick(), "notices")
            await asyncio.sleep(BEAT)

    async def _retrain(self) -> None:
        while True:
            await _guarded(self._retrainer.tick(), "retraining")
            await asyncio.sleep(BEAT)

    async def _renew(self) -> None:
        while True:
            await _guarded(self._learning.renew(), "repository")
            await asyncio.sleep(RENEWAL)

    async def _tend(self) -> None:
        for look in itertools.count():
            work = self._upkeep.compact() if look % UPKEEP else self._upkeep.run(False, "policy")
            await _guarded(work, "the lake")
            await asyncio.sleep(COMPACTION)

    async def _windows(self, filter: pc.Expression | None) -> pa.Table:
        return await asyncio.to_thread(self._lake.scan, "windows", None, filter)

    async def _labelled(self, workload: str, since: Mapping[str, float]) -> Labelled:
        newest = await self._newest(workload)
        return await asyncio.to_thread(labelled, self._lake, workload, since, newest.inputs[0], newest.labels)

    async def _unlabelled(self, workload: str, since: Mapping[str, float], count: int) -> Unlabelled:
        newest = await self._newest(workload)
        return await asyncio.to_thread(unlabelled_inputs, self._lake, workload, since, newest.inputs[0], count)

    async def _newest(self, workload: str) -> Manifest:
        mine = select(Bundle).where(Bundle.workload == workload)
        bundle = await self._store.first(mine.order_by(Bundle.release.desc()))
        assert bundle  # what devices run is a release
        return wire.from_json(Manifest, bundle.manifest)

    async def _estimate(self, workload: str, release: int, since: Mapping[str, float]) -> Accuracy:
        return (await accuracy.estimate(self._store, self._drift.normal, self._lake, workload, release, since))[1]

    async def _roll_out(self, workload: str, release: int) -> None:
        rollouts = self._config.rollouts
        devices = await self._director.having(workload)
        if not devices:
            raise NotFoundError(f"{workload}: no device has it any more")
        order = Order(workload, release, rollouts.canary, rollouts.wave_minutes * 60, devices)
        await self._director.start(order, "policy", time.time())


class _Https(uvicorn.Server):
    """Uvicorn without its signal handlers: the composition root has its own."""

    def __init__(self, found: uvicorn.Config) -> None:
        super().__init__(found)
        self._up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._up.set()

    async def listening(self, serving: "asyncio.Future[None]") -> None:
        """Wait until requests are served; raises what kept the server from it."""
        await _first(asyncio.ensure_future(self._up.wait()), serving)

    async def end(self, serving: "asyncio.Future[None]") -> None:
        """Stop serving."""
        self.should_exit = True
        await asyncio.wait([serving])


async def _guarded(beat: Awaitable[Any], what: str) -> None:
    """One beat of a part that must go on: a full disk or a busy database now says nothing about the next beat."""
    try:
        await beat
    except Exception:
        log.exception("%s: this look failed; the next one follows", what)


def revision() -> str:
    """The revision of the code that trains: git's name for it, or the installed version of Skerry."""
    here = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return f"skerry {__version__}"
    return asked.stdout.strip()


def _policies(found: CloudConfig) -> Policies:
    price = found.cost.per_minute
    own = {workload: _policy(table, price) for workload, table in found.retrain.own.items()}
    return Policies(_policy(found.retrain, price), own)


def _policy(table: Retrain, price: float) -> Policy:
    return Policy(
        min_labels=table.min_labels, cooldown_seconds=table.cooldown_minutes * 60, enabled=table.enabled,
        epochs=table.epochs, max_loss=table.max_loss, on=table.on, min_harm=table.min_harm,
        min_accuracy=table.min_accuracy, every_days=table.every_days, new_labels=table.new_labels,
        approval=table.approval, hours=table.hours, budget_minutes=table.budget_minutes,
        budget_money=table.budget_money, price=price, pseudo_labels=table.pseudo_labels, pseudo_sure=table.pseudo_sure,
    )  # fmt: skip


def _keeping(found: CloudConfig) -> Keeping:
    lake = found.lake
    keep = {table: days or inf for table, days in lake.keep.items()}
    return Keeping(lake.hot_days if lake.cold else inf, lake.keep_days or inf, keep, lake.vacuum_hours)


async def _first(*parts: "asyncio.Future[Any]") -> None:
    """Return when the first of these ends, or raise what it raised."""
    done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
    for part in done:
        part.result()


async def _stop(tasks: "Sequence[asyncio.Task[None]]", background: "set[asyncio.Task[Any]]") -> None:
    everything: list[asyncio.Task[Any]] = [*tasks, *background]
    for task in everything:
        task.cancel()
    await asyncio.gather(*everything, return_exceptions=True)
