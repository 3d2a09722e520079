"""Out, step by step: ingest → train → compress → publish. Each step is a process, a row, and an event.

The operator (through the API) and the retraining policy take the same steps. One heavy step runs at a time.
"""

import asyncio
import contextlib
import dataclasses
import logging
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import select

from skerry_cloud import datasets, launch, passes, runs
from skerry_cloud.compress import study
from skerry_cloud.evaluate.compare import Verdict
from skerry_cloud.job import Progress, Report
from skerry_cloud.ondevice import Benchmarks, Devices, Subject
from skerry_cloud.release.package import package
from skerry_cloud.release.repository import Repository
from skerry_cloud.specs import AdoptSpec, CompareSpec, CompressSpec, IngestSpec, SettleSpec, TrainSpec, Wanted
from skerry_cloud.store import Base, Bundle, Dataset, Device, Event, Release, Run, Store
from skerry_shared import bundle, identity, plugins, profiles, wire
from skerry_shared.errors import NotFoundError, SkerryError, StateError, UsageError
from skerry_shared.release import Channel, Kind, Lineage

log = logging.getLogger(__name__)

KILLS = 2  # of a training job that are survived
PROFILES = "profiles"  # a run's file that says which profiles it was compressed for, one a line


class Learning:
    """The steps. ``paths`` are the workloads of skerry-cloud.toml, ``code`` the revision that lineage names."""

    def __init__(
        self, store: Store, folder: Path, paths: Mapping[str, str], repository: Repository, code: str,
        benchmarks: Benchmarks, price: float = 0.0, ray: str = "",
    ) -> None:  # fmt: skip
        """``folder`` is the cloud's own: datasets/ and runs/ are below it; ``price`` of a minute of a heavy step.

        ``ray`` as in ``CompressSpec``.
        """
        self._store, self._folder, self._paths, self._repository = store, folder, paths, repository
        self._code, self._heavy, self._publishing = code, asyncio.Lock(), asyncio.Lock()
        self._ray, self._price, self._fits = ray, price, defaultdict[int, asyncio.Lock](asyncio.Lock)
        self._devices = Devices(repository, self._publishing, benchmarks)

    def workloads(self) -> list[str]:
        """Names of all workloads that can be learned here."""
        return sorted({*plugins.names("skerry.workloads"), *self._paths})

    async def recover(self) -> None:
        """Runs that the cloud's end interrupted: what was trained still is, training is to go on, see ``resume``."""
        interrupted = select(Run).where(Run.state.in_(["training", "importing", "compressing"]))
        for run in await self._store.all(interrupted):
            after = {"compressing": "trained", "training": "queued", "importing": "failed"}[run.state]
            await self._move(run, after, "the cloud stopped meanwhile", "cloud")
        await self._devices.recover()

    async def resume(self) -> None:
        """Go on with what is queued; a run that fails does not keep the next one from it."""
        for run in await self._store.all(select(Run).where(Run.state == "queued").order_by(Run.id)):
            with contextlib.suppress(SkerryError):  # it is an event
                await self.fit(run.id, "cloud", _unheard)

    async def ingest(
        self, workload: str, actor: str, report: Report, samples: Path | None = None, parent: int = 0,
        sure: float = 1.0,
    ) -> Dataset:  # fmt: skip
        """The workload's next dataset version: its own data, or a parent version and samples from the field.

        ``samples``, ``sure``: see ``IngestSpec``.
        """
        spec = IngestSpec(
            name=workload, workload=self._known(workload), folder=self._folder, datasets=self._data(workload),
            created=time.time(), samples=samples, parent=parent, sure=sure,
        )  # fmt: skip
        async with self._heavy:
            self._data(workload).mkdir(parents=True, exist_ok=True)
            await launch.run("skerry_cloud.train.ingest", spec, self._data(workload), report)
            number = datasets.versions(self._data(workload))[-1]
        info = datasets.open_version(self._data(workload), number).info
        dataset = Dataset(
            workload=workload, number=number, parent=info.parent, created=info.created, sha256=info.sha256,
            rows=sum(info.counts.values()), sources=dict(info.sources),
        )  # fmt: skip
        why = f"{dataset.rows} rows, {', '.join(f'{n} {split}' for split, n in info.counts.items())}"
        await self._record(dataset, _event("dataset", f"{workload}@{number}", "", "created", why, actor))
        return dataset

    async def train(self, workload: str, dataset: int, parent: int, epochs: int, actor: str, report: Report) -> Run:
        """A run on a dataset version (0: the newest), warm from release ``parent`` unless that is 0."""
        run = await self.enqueue(workload, dataset, parent, epochs)
        return await self.fit(run.id, actor, report)

    async def enqueue(self, workload: str, dataset: int, parent: int, epochs: int) -> Run:
        """A run that is still to be trained, see ``train``."""
        number = (await self._dataset(workload, dataset)).number
        if parent:
            await self._store.get(Release, workload, parent)
        run = Run(
            workload=workload, dataset=number, parent=parent, code=self._code, state="queued", created=time.time(),
            epochs=epochs,
        )  # fmt: skip
        await self._record(run)
        self.run_folder(run.id).mkdir(parents=True)
        return run

    async def fit(self, number: int, actor: str, report: Report) -> Run:
        """Train a queued run, from its last epoch if it was interrupted; whoever else asks for it waits for the same.

        Raises what kept it from its end, StateError if that was before.
        """
        async with self._fits[number]:
            run = await self._store.get(Run, number)
            if run.state == "failed":
                raise StateError(f"run: {number} failed: {run.reason}")
            return await self._fit(run, actor, report) if run.state == "queued" else run

    async def _fit(self, run: Run, actor: str, report: Report) -> Run:
        origin = await self._store.get(Release, run.workload, run.parent) if run.parent else None
        await self._move(run, "training", f"on {run.workload}@{run.dataset}", actor)
        spec = TrainSpec(
            workload=self._known(run.workload), folder=self._folder, datasets=self._data(run.workload),
            dataset=run.dataset, run=self.run_folder(run.id), parent=self.run_folder(origin.run) if origin else None,
            epochs=run.epochs or None,
        )  # fmt: skip
        async with self._step(run, actor):
            await self._survive(spec, run.id, report)
        return await self._trained(run, actor)

    async def _survive(self, spec: TrainSpec, number: int, report: Report) -> None:
        """Train; where the job is killed, it goes on from its last epoch, a few times."""
        for attempt in range(1, KILLS + 1):
            try:
                return await launch.run("skerry_cloud.train.job", spec, self.run_folder(number), report)
            except launch.KilledError as error:
                log.warning("run %d, attempt %d: %s", number, attempt, error)
        return await launch.run("skerry_cloud.train.job", spec, self.run_folder(number), report)

    async def adopt(self, workload: str, dataset: int, file: Path, scores: str, actor: str, report: Report) -> Run:
        """A run of a model that was made elsewhere; ``file`` is moved into its folder. See ``train.adopt``."""
        number = (await self._dataset(workload, dataset)).number
        digest = await asyncio.to_thread(_digest, file)
        run = Run(
            workload=workload, dataset=number, parent=0, code=f"sha256:{digest}", state="queued", created=time.time()
        )
        await self._record(run)
        folder = self.run_folder(run.id)
        folder.mkdir(parents=True)
        kept = folder / runs.IMPORTED / file.name
        await asyncio.to_thread(shutil.move, file.parent, kept.parent)
        await self._move(run, "importing", f"{file.name}, sha256 {digest}", actor)
        spec = AdoptSpec(
            workload=self._known(workload), folder=self._folder, datasets=self._data(workload), dataset=number,
            run=folder, file=kept, scores=scores,
        )  # fmt: skip
        async with self._step(run, actor):
            await launch.run("skerry_cloud.train.adopt", spec, folder, report)
        return await self._trained(run, actor)

    async def compress(self, number: int, wanted: Wanted, actor: str, report: Report) -> dict[str, Any]:
        """One checked variant for every kind of device among the profiles. Raises GateError where none is good enough.

        Idle devices of these profiles, where there are any, measure the finalists and so have the last word.
        Asked again after an interruption, a search goes on from where it was.
        """
        run = await self._store.get(Run, number)
        if run.state not in ("trained", "compressed"):
            raise StateError(f"run: {number} is {run.state}; only a trained run can be compressed")
        released = await self._store.first(select(Release).where(Release.run == number))
        if released:
            raise StateError(f"run: {number} is release {run.workload}/{released.number}; train another run")
        for name in wanted.profiles:
            profiles.load(name)
        if not wanted.profiles:
            raise UsageError("profiles: name at least one")
        for recipe in wanted.recipes:
            passes.parse(recipe)
        await self._move(run, "compressing", ", ".join(wanted.profiles), actor)
        devices = await self._devices.idle(wanted.profiles) if wanted.device_minutes else {}
        spec = CompressSpec(
            workload=self._known(run.workload), folder=self._folder, datasets=self._data(run.workload),
            dataset=run.dataset, run=self.run_folder(number), wanted=wanted, asked=tuple(devices), ray=self._ray,
        )  # fmt: skip
        async with self._step(run, actor, back="trained"):
            await launch.run("skerry_cloud.compress.job", spec, spec.run, report)
        if devices:
            subject = Subject(spec.run, run.workload, await self._lineage(run))
            answers = await self._devices.ask(subject, devices, wanted.device_minutes * 60, report)
            async with self._step(run, actor, back="trained"):
                await launch.run("skerry_cloud.compress.settle", SettleSpec(spec.run, answers), spec.run, report)
        variants = self._variants(number, wanted.profiles)
        (self.run_folder(number) / PROFILES).write_text("\n".join(wanted.profiles))
        figures = (f"{Kind(**v['kind']).name} {v['accuracy']:.4f}, {v['model_bytes'] // 1024} KB" for v in variants)
        await self._move(run, "compressed", "; ".join(figures), actor)
        return {"run": number, "variants": variants, "study": self._study(number)}

    def recipes(self, number: int) -> tuple[str, ...]:
        """What a run's variants were made by."""
        return tuple(dict.fromkeys(found["recipe"] for found in self._variants(number, self._profiles(number))))

    async def compare(self, champion: int, candidate: int, max_loss: float | None, report: Report) -> Verdict:
        """The candidate run against the champion run, on the candidate's held-out data, recent and old."""
        run = await self._store.get(Run, candidate)
        profile = profiles.load(self._profiles(candidate)[0])
        spec = CompareSpec(
            workload=self._known(run.workload), folder=self._folder, datasets=self._data(run.workload),
            dataset=run.dataset, champion=self.run_folder(champion), candidate=self.run_folder(candidate),
            kind=profile.kind, max_loss=max_loss,
        )  # fmt: skip
        async with self._heavy, self._metered(run):
            await launch.run("skerry_cloud.evaluate.job", spec, self.run_folder(candidate), report)
        return runs.read(Verdict, self.run_folder(candidate) / runs.VERDICT)

    async def publish(self, number: int, reason: str, actor: str) -> Release:
        """Sign the run's bundles as the workload's next release. Raises StateError unless the run is compressed."""
        run = await self._store.get(Run, number)
        if run.state != "compressed":
            raise StateError(f"run: {number} is {run.state}; compress it first")
        async with self._publishing:
            release = await self._next_release(run.workload)
            bundles = await self._package(run, release)
            manifests = {name: bundle.peek(data) for name, data in bundles.items()}
            placed = self._repository.publish(run.workload, release, bundles, identity.utc(time.time()))
            row = Release(
                workload=run.workload, number=release, run=number, owner=next(iter(manifests.values())).owner,
                created=time.time(), reason=reason,
            )  # fmt: skip
            rows = [
                Bundle(
                    workload=run.workload, release=release, profile=name, path=there.path, sha256=there.sha256,
                    length=there.length, manifest=wire.to_json(manifests[name]),
                )
                for name, there in placed.items()
            ]  # fmt: skip
            event = _event("release", f"{run.workload}/{release}", "", "published", reason, actor)
            await self._record(row, event, *rows)
        return row

    async def normal(self, device: str, workload: str, release: int) -> Sequence[Channel]:
        """Traffic to compare a device's with: what it sent itself where the release was retrained for that, else the
        release's baseline. Raises NotFoundError if the release has nothing for this device."""
        profile = profiles.load((await self._store.get(Device, device)).profile)
        run = (await self._store.get(Release, workload, release)).run
        report = runs.variant(self.run_folder(run), profile.kind).report()
        return report.references.get(f"device:{device}", report.baseline)

    async def renew(self) -> None:
        """Sign anew what would soon expire in the repository."""
        async with self._publishing:
            await asyncio.to_thread(self._repository.renew, identity.utc(time.time()))

    def page(self, number: int) -> Path:
        """The report of a run's compression, HTML. Raises NotFoundError before there is one."""
        page = self.run_folder(number) / study.FOLDER / study.PAGE
        if not page.is_file():
            raise NotFoundError(f"run: {number} has no report; `skerry compress` writes one")
        return page

    def inbox(self) -> Path:
        """A fresh folder for a file that is on its way into a run."""
        folder = self._folder / "inbox"
        folder.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(dir=folder))

    def report(self, number: int) -> dict[str, Any]:
        """All figures of a run so far: metrics, and variants once there are any."""
        folder = self.run_folder(number)
        found: dict[str, Any] = {}
        if (folder / runs.METRICS).is_file():
            found["metrics"] = dataclasses.asdict(runs.read(runs.Metrics, folder / runs.METRICS))
        if (folder / PROFILES).is_file():
            found["variants"] = self._variants(number, self._profiles(number))
            found["study"] = self._study(number)
        return found

    def run_folder(self, number: int) -> Path:
        """Where a run keeps its files."""
        return self._folder / "runs" / str(number)

    async def _trained(self, run: Run, actor: str) -> Run:
        run.accuracy = runs.read(runs.Metrics, self.run_folder(run.id) / runs.METRICS).overall["accuracy"]
        await self._move(run, "trained", f"accuracy {run.accuracy:.4f} on held-out data", actor)
        return run

    async def _package(self, run: Run, release: int) -> dict[str, bytes]:
        lineage, folder = await self._lineage(run), self.run_folder(run.id)
        return {
            name: await asyncio.to_thread(
                package, folder, profiles.load(name).target(name), run.workload, release, lineage
            )
            for name in self._profiles(run.id)
        }

    async def _lineage(self, run: Run) -> Lineage:
        dataset = await self._store.get(Dataset, run.workload, run.dataset)
        return Lineage(run.dataset, dataset.sha256, run.id, run.code, run.parent)

    async def _next_release(self, workload: str) -> int:
        """Above what either the database or the repository has: a crash may have come between the two."""
        newest = await self._store.first(
            select(Release).where(Release.workload == workload).order_by(Release.number.desc())
        )
        return max(newest.number if newest else 0, self._repository.newest(workload)) + 1

    async def _dataset(self, workload: str, number: int) -> Dataset:
        self._known(workload)
        query = select(Dataset).where(Dataset.workload == workload).order_by(Dataset.number.desc())
        found = await self._store.first(query.where(Dataset.number == number) if number else query)
        if not found:
            raise NotFoundError(f"dataset: no {workload}@{number or 1}; make one with `skerry data add {workload}`")
        return found

    def _variants(self, number: int, names: Sequence[str]) -> list[dict[str, Any]]:
        targets = [profiles.load(name) for name in names]
        kinds = dict.fromkeys(profile.kind for profile in targets)
        reports = (runs.variant(self.run_folder(number), kind).report() for kind in kinds)
        return [
            {k: v for k, v in dataclasses.asdict(found).items() if k not in ("baseline", "references")}
            for found in reports
        ]

    def _study(self, number: int) -> dict[str, Any]:
        return dataclasses.asdict(runs.read(study.Study, self.run_folder(number) / study.FOLDER / study.STUDY))

    def _profiles(self, number: int) -> tuple[str, ...]:
        return tuple((self.run_folder(number) / PROFILES).read_text().split())

    def _known(self, workload: str) -> str:
        """What finds the workload's class: the entry point's name, or the configured path."""
        if workload not in self.workloads():
            raise NotFoundError(f"workload: no {workload!r}; known: {', '.join(self.workloads())}")
        return self._paths.get(workload, workload)

    def _data(self, workload: str) -> Path:
        return self._folder / "datasets" / workload

    @asynccontextmanager
    async def _step(self, run: Run, actor: str, back: str = "failed") -> AsyncIterator[None]:
        """A heavy step of a run: one at a time; if it fails the run is ``back``, and why is kept."""
        try:
            async with self._heavy, self._metered(run):
                yield
        except SkerryError as error:
            await self._move(run, back, str(error), actor)
            raise

    @asynccontextmanager
    async def _metered(self, run: Run) -> AsyncIterator[None]:
        """Whatever becomes of the step, its time is added to the run's."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            run.seconds, run.cost = run.seconds + seconds, run.cost + seconds / 60 * self._price
            async with self._store.begin() as session:
                row = await session.get_one(Run, run.id)
                row.seconds, row.cost = run.seconds, run.cost

    async def _move(self, run: Run, state: str, reason: str, actor: str) -> None:
        before, run.state, run.reason = run.state if run.state != state else "", state, reason
        async with self._store.begin() as session:
            await session.merge(run)
            session.add(_event("run", str(run.id), before, state, reason, actor))

    async def _record(self, *rows: Base) -> None:
        """All rows in one transaction, in this order."""
        async with self._store.begin() as session:
            for row in rows:
                session.add(row)
                await session.flush()


def _digest(file: Path) -> str:
    return bundle.digest(file.read_bytes())


def _unheard(_: Progress) -> None:
    """Nobody waits for it."""


def _event(kind: str, name: str, before: str, after: str, reason: str, actor: str) -> Event:
    return Event(time=time.time(), kind=kind, name=name, before=before, after=after, reason=reason, actor=actor)
