"""Back to the start of the loop: from open alarms and labelled samples to the next release, by policy.

    look → decide (pure, ``policy``) → grow the dataset → train warm → compress → compare with the champion → publish
    → roll out

Each step is an event with actor ``policy``. A candidate that fails a gate is an event too, and the champion stays. How
far a retraining came is a row: whoever was killed goes on from there.
"""

import asyncio
import io
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from skerry_cloud.alarms import move
from skerry_cloud.datasets import TEACHER, UNTOLD
from skerry_cloud.job import Progress, Report
from skerry_cloud.retrain.harm import Accuracy, proven
from skerry_cloud.retrain.policy import (
    UNKNOWN,
    Cohort,
    Policies,
    Situation,
    Spent,
    Verdict,
    decide,
    hindered,
    is_harmed,
    month_began,
)
from skerry_cloud.specs import Wanted
from skerry_cloud.store import Alarm, Bundle, Dataset, Event, Installed, Release, Retraining, Rollout, Run, Store
from skerry_shared.errors import GateError, SkerryError
from skerry_shared.files import write_durably
from skerry_shared.states import HEALTH, AlarmEvent, Health, HealthEvent, step
from skerry_shared.states import Alarm as State

log = logging.getLogger(__name__)

ACTOR = "policy"
RUNNING = "running"
LOOK = 60.0  # seconds between two looks at workloads without an alarm
UNRESOLVED = Alarm.state != State.RESOLVED.value
ALPHA = 0.05  # probability that harm is stated where there is none, however often labels are looked at


class Samples(Protocol):
    """Labelled inputs from the field: n × raw shape, int64 label places, and the device that each came from; which
    release answered, whether it was right, the probability of the sample's inclusion, and of any answer's then; and
    whether the sample was chosen, not drawn at random."""

    @property
    def inputs(self) -> NDArray[np.generic]: ...  # noqa: D102
    @property
    def labels(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def sources(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def releases(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def right(self) -> NDArray[np.bool_]: ...  # noqa: D102
    @property
    def probabilities(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def audits(self) -> NDArray[np.float64]: ...  # noqa: D102
    @property
    def chosen(self) -> NDArray[np.bool_]: ...  # noqa: D102


class Inputs(Protocol):
    """Inputs without a label (n × raw shape), and the device that each came from."""

    @property
    def inputs(self) -> NDArray[np.generic]: ...  # noqa: D102
    @property
    def sources(self) -> Sequence[str]: ...  # noqa: D102


class Judged(Protocol):
    """What a comparison comes to."""

    @property
    def passed(self) -> bool:
        """Whether the candidate may replace the champion."""
        ...

    @property
    def reason(self) -> str:
        """Why, in a line with the figures."""
        ...


class Steps(Protocol):
    """The steps that lead to a release; see ``learning.Learning``."""

    async def ingest(
        self, workload: str, actor: str, report: Report, samples: Path | None = None, parent: int = 0,
        sure: float = 1.0,
    ) -> Dataset:  # fmt: skip
        """Grow a dataset."""
        ...

    async def enqueue(self, workload: str, dataset: int, parent: int, epochs: int) -> Run:
        """A run to be trained on it."""
        ...

    async def fit(self, number: int, actor: str, report: Report) -> Run:
        """Train that run, or what is left of it."""
        ...

    async def compress(self, number: int, wanted: Wanted, actor: str, report: Report) -> object:
        """Make the variants."""
        ...

    def recipes(self, number: int) -> tuple[str, ...]:
        """What a run's variants were made by."""
        ...

    async def compare(self, champion: int, candidate: int, max_loss: float | None, report: Report) -> Judged:
        """Judge them."""
        ...

    async def publish(self, number: int, reason: str, actor: str) -> Release:
        """Sign and publish."""
        ...


Labelled = Callable[[str, Mapping[str, float]], Awaitable[Samples]]  # (workload, since when for each device)
Unlabelled = Callable[[str, Mapping[str, float], int], Awaitable[Inputs]]  # (…, how many at most)
Estimate = Callable[[str, int, Mapping[str, float]], Awaitable[Accuracy]]  # (workload, release, since …), no labels
StartRollout = Callable[[str, int], Awaitable[object]]  # (workload, release)


@dataclass(frozen=True)
class Asked:
    """Who else is asked before something is decided, or done."""

    labelled: Labelled
    unlabelled: Unlabelled
    estimate: Estimate
    start: StartRollout


class Retrainer:
    """Watches alarms and champions and acts by each workload's policy; one retraining at a time."""

    def __init__(
        self, store: Store, steps: Steps, asked: Asked, policies: Policies, folder: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """``folder`` is where samples wait for ingestion; ``clock`` gives Unix seconds."""
        self._store, self._steps, self._asked = store, steps, asked
        self._policies, self._folder, self._clock = policies, folder, clock
        self._looked = 0.0
        self.verdicts: dict[str, Verdict] = {}  # of each workload, the last one

    async def tick(self) -> None:
        """Go on with what was begun; close alarms that were answered; retrain where the policy says so.

        This returns when it is done.
        """
        for begun in await self._store.all(select(Retraining).where(Retraining.state == RUNNING)):
            if self._policies.of(begun.workload).enabled:
                await self._go_on(begun)
        await self._close_answered()
        await self._take_back_halted()
        drifting = Alarm.health.in_([Health.DRIFT.value, Health.HARM.value])
        alarms = await self._store.all(select(Alarm).where(UNRESOLVED, drifting))
        for workload in sorted({alarm.workload for alarm in alarms} | await self._due_for_a_look()):
            await self._consider(workload, [alarm for alarm in alarms if alarm.workload == workload])

    async def _due_for_a_look(self) -> set[str]:
        """Workloads that devices run, now and then, where their policy acts upon more than alarms."""
        now = self._clock()
        if now - self._looked < LOOK:
            return set()
        self._looked = now
        running = {installed.workload for installed in await self._store.all(select(Installed))}
        return {workload for workload in running if self._policies.of(workload).looks_without_alarm}

    async def _consider(self, workload: str, alarms: Sequence[Alarm]) -> None:
        now, policy = self._clock(), self._policies.of(workload)
        champion = await self._champion(workload, alarms)
        if champion is None:
            return
        run = await self._store.get(Run, champion.run)
        situation = Situation(
            cohorts=[await self._cohort(alarm, None) for alarm in alarms], labelled=0, busy=await self._busy(workload),
            last_retrained=await self._last(workload), hour=time.localtime(now).tm_hour, trained=run.created,
            spent=await self._spent(workload, now),
        )  # fmt: skip
        if hindrance := hindered(policy, situation, now):  # whatever labels say: no need to read the lake
            self.verdicts[workload] = Verdict(False, hindrance)
            return
        since = await self._since(workload, alarms, max(situation.trained, situation.last_retrained))
        samples = await self._asked.labelled(workload, since)
        cohorts = [await self._cohort(alarm, samples) for alarm in alarms]
        for alarm, cohort in zip(alarms, cohorts, strict=True):
            if alarm.health == Health.DRIFT and is_harmed(policy, cohort):
                await self._move([alarm.id], HealthEvent.HARMED, _harm(cohort))
        estimate = await self._estimate(workload, champion.number, since)
        known = replace(situation, cohorts=cohorts, labelled=len(samples.labels), estimate=estimate)
        verdict = self.verdicts[workload] = decide(policy, known, now)
        if verdict.retrain:
            await self._keep(workload, samples, since)
            await self._go_on(await self._begin(workload, champion.number, alarms, verdict.reason))

    async def _champion(self, workload: str, alarms: Sequence[Alarm]) -> Release | None:
        """What drifts, or else the newest that devices run."""
        running = await self._store.all(select(Installed).where(Installed.workload == workload))
        numbers = [alarm.release for alarm in alarms] or [installed.release for installed in running]
        mine = select(Release).where(Release.workload == workload, Release.number.in_(numbers))
        return await self._store.first(mine.order_by(Release.number.desc()))

    async def _since(self, workload: str, alarms: Sequence[Alarm], trained: float) -> Mapping[str, float]:
        """From when on each device's samples are to be learned from.

        Since an alarm, not since the drift began: a window may hold both worlds, and the new one is to be learned.
        """
        running = await self._store.all(select(Installed).where(Installed.workload == workload))
        well = {one.device: trained for one in running} if self._policies.of(workload).looks_without_alarm else {}
        return well | {device: alarm.raised for alarm in alarms for device in alarm.devices}

    async def _estimate(self, workload: str, release: int, since: Mapping[str, float]) -> Accuracy:
        asked = "estimate" in self._policies.of(workload).on
        return await self._asked.estimate(workload, release, since) if asked else UNKNOWN

    async def _cohort(self, alarm: Alarm, samples: Samples | None) -> Cohort:
        """What labels prove about the release that drifted, on the devices of its alarm."""
        release = await self._store.get(Release, alarm.workload, alarm.release)
        before = (await self._store.get(Run, release.run)).accuracy
        if samples is None:
            return Cohort(alarm.name or alarm.level, before, proven([], [], [], ALPHA))
        mine = np.isin(np.array(samples.sources, dtype=np.str_), alarm.devices) & (samples.releases == alarm.release)
        now = proven(samples.right[mine], samples.probabilities[mine], samples.audits[mine], ALPHA)
        return Cohort(alarm.name or alarm.level, before, now)

    async def _spent(self, workload: str, now: float) -> Spent:
        month = await self._store.all(select(Retraining).where(Retraining.began >= month_began(now)))
        shared = {one.run for one in month if self._policies.share(workload, one.workload)}
        runs = await self._store.all(select(Run).where(Run.id.in_(shared)))
        mine = select(Retraining).where(Retraining.workload == workload, Retraining.run > 0)
        last = await self._store.first(mine.order_by(Retraining.id.desc()))
        minutes = (await self._store.get(Run, last.run)).seconds / 60 if last else 0.0
        return Spent(sum(run.seconds for run in runs) / 60, sum(run.cost for run in runs), minutes)

    async def _move(self, alarms: Sequence[int], event: HealthEvent, reason: str) -> None:
        async with self._store.begin() as session:
            await self._affect(session, alarms, event, reason)

    async def _affect(self, session: AsyncSession, alarms: Sequence[int], event: HealthEvent, reason: str) -> None:
        """The health of these cohorts after ``event``, where it is still such that this can happen."""
        for number in alarms:
            row = await session.get_one(Alarm, number)
            if event in HEALTH.get(Health(row.health), {}):
                before, row.health = row.health, step(HEALTH, Health(row.health), event).value
                session.add(Event(time=self._clock(), kind="health", name=row.title, before=before,
                                  after=row.health, reason=reason, actor=ACTOR))  # fmt: skip

    async def _keep(self, workload: str, samples: Samples, since: Mapping[str, float]) -> None:
        """What is to be learned from: samples with a label, and some without one for the workload's teacher."""
        given = {"inputs": samples.inputs, "labels": samples.labels, "sources": _sources("device", samples.sources),
                 "chosen": samples.chosen}  # fmt: skip
        if count := self._policies.of(workload).pseudo_labels:
            others = await self._asked.unlabelled(workload, since, count)
            untold = np.full(len(others.sources), UNTOLD)
            added = {"inputs": others.inputs, "labels": untold, "sources": _sources(TEACHER, others.sources),
                     "chosen": np.ones(len(untold), np.bool_)}  # fmt: skip
            given = {name: np.concatenate([array, added[name]]) for name, array in given.items()}
        await asyncio.to_thread(self._save, workload, given)

    async def _begin(self, workload: str, champion: int, alarms: Sequence[Alarm], reason: str) -> Retraining:
        row = Retraining(workload=workload, champion=champion, alarms=[alarm.id for alarm in alarms], reason=reason,
                         began=self._clock())  # fmt: skip
        async with self._store.begin() as session:
            session.add(row)
            await self._affect(session, row.alarms, HealthEvent.STARTED, reason)
            session.add(self._event(workload, "", "retraining", reason))
        return row

    async def _go_on(self, row: Retraining) -> None:
        """Take the steps that are left."""
        try:
            reason = await self._take_steps(row)
        except SkerryError as error:
            await self._end(row, "given up", HealthEvent.GAVE_UP, str(error))
        else:
            await self._end(row, "done", HealthEvent.RELEASED, reason)

    async def _take_steps(self, row: Retraining) -> str:
        policy = self._policies.of(row.workload)
        champion = await self._store.get(Run, (await self._store.get(Release, row.workload, row.champion)).run)
        if not row.dataset:
            file = self._file(row.workload)
            dataset = await self._steps.ingest(
                row.workload, ACTOR, self._report, file, champion.dataset, policy.pseudo_sure
            )
            await self._note(row, dataset=dataset.number)
            file.unlink()
        if not row.run:
            run = await self._steps.enqueue(row.workload, row.dataset, row.champion, policy.epochs)
            await self._note(row, run=run.id)
        await self._steps.fit(row.run, ACTOR, self._report)
        if not row.published:
            published = await self._publish(row, champion.id)
            await self._note(row, published=published.number)
        await self._bring_out(row.workload, row.published)
        return (await self._store.get(Release, row.workload, row.published)).reason

    async def _publish(self, row: Retraining, champion: int) -> Release:
        """What passed the gates; the release that it is already, if this was cut short just then."""
        if found := await self._store.first(select(Release).where(Release.run == row.run)):
            return found
        mine = select(Bundle).where(Bundle.workload == row.workload, Bundle.release == row.champion)
        names = [bundle.profile for bundle in await self._store.all(mine)]
        wanted = Wanted(tuple(names), recipes=self._steps.recipes(champion), device_minutes=0)
        await self._steps.compress(row.run, wanted, ACTOR, self._report)
        judged = await self._steps.compare(champion, row.run, self._policies.of(row.workload).max_loss, self._report)
        if not judged.passed:
            raise GateError(judged.reason)
        return await self._steps.publish(row.run, f"{row.reason}; {judged.reason}", ACTOR)

    async def _bring_out(self, workload: str, release: int) -> None:
        about = select(Rollout).where(Rollout.workload == workload, Rollout.release == release)
        if self._policies.of(workload).approval:
            how = f"start it with `skerry rollout start {workload}/{release}`"
            async with self._store.begin() as session:
                session.add(self._event(workload, f"release {release}", "waits for approval", how))
        elif not await self._store.first(about):
            await self._asked.start(workload, release)

    async def _note(self, row: Retraining, **came: int) -> None:
        """How far it came."""
        async with self._store.begin() as session:
            kept = await session.get_one(Retraining, row.id)
            for name, value in came.items():
                setattr(kept, name, value)
                setattr(row, name, value)

    async def _end(self, row: Retraining, state: str, event: HealthEvent, reason: str) -> None:
        after = f"release {row.published}" if state == "done" else state
        async with self._store.begin() as session:
            kept = await session.get_one(Retraining, row.id)
            kept.state, kept.ended = state, self._clock()
            await self._affect(session, row.alarms, event, reason)
            session.add(self._event(row.workload, "retraining", after, reason))

    async def _last(self, workload: str) -> float:
        """When a retraining last began or ended; 0 for never."""
        mine = select(Retraining).where(Retraining.workload == workload).order_by(Retraining.id.desc())
        last = await self._store.first(mine)
        return max(last.began, last.ended) if last else 0.0

    async def _busy(self, workload: str) -> str:
        run = await self._store.first(
            select(Run).where(
                Run.workload == workload, Run.state.in_(["queued", "training", "importing", "compressing"])
            )
        )
        rollout = await self._store.first(
            select(Rollout).where(Rollout.workload == workload, Rollout.state == "running")
        )
        if run:
            return f"run {run.id} is {run.state}"
        return f"rollout {rollout.id} is running" if rollout else ""

    async def _close_answered(self) -> None:
        """An alarm about a release is answered once none of its devices runs that any more, or one from before it."""
        async with self._store.begin() as session:
            installed = (await session.scalars(select(Installed))).all()
            for alarm in (await session.scalars(select(Alarm).where(UNRESOLVED))).all():
                if not any(_is_about(alarm, one) for one in installed):
                    why = f"{', '.join(alarm.devices)}: {alarm.workload}/{alarm.release} runs no more"
                    move(session, alarm, AlarmEvent.RESOLVED, why, ACTOR, self._clock())

    async def _take_back_halted(self) -> None:
        """What a retraining was to cure still drifts where its rollout halted."""
        for alarm in await self._store.all(select(Alarm).where(UNRESOLVED, Alarm.health == Health.CANARY.value)):
            newest = select(Rollout).where(Rollout.workload == alarm.workload, Rollout.release > alarm.release)
            rollout = await self._store.first(newest.order_by(Rollout.id.desc()))
            if rollout and rollout.state == "halted":
                await self._move([alarm.id], HealthEvent.GAVE_UP, f"rollout {rollout.id} halted")

    def _file(self, workload: str) -> Path:
        return self._folder / f"{workload}.npz"

    def _save(self, workload: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]  # it takes any names
        write_durably(self._file(workload), content.getvalue())

    def _report(self, progress: Progress) -> None:
        if progress.done == progress.total:
            log.info("retraining: %s: %s", progress.stage, progress.note or "done")

    def _event(self, workload: str, before: str, after: str, reason: str) -> Event:
        return Event(time=self._clock(), kind="retrain", name=workload, before=before, after=after, reason=reason,
                     actor=ACTOR)  # fmt: skip


def _sources(who: str, devices: Sequence[str]) -> NDArray[np.str_]:
    return np.array([f"{who}:{device}" for device in devices], dtype=np.str_)


def _is_about(alarm: Alarm, installed: Installed) -> bool:
    """Does a device of the alarm run what it is about, or what was before that?"""
    same = installed.device in alarm.devices and installed.workload == alarm.workload
    return same and installed.release <= alarm.release


def _harm(cohort: Cohort) -> str:
    now = cohort.now
    return (
        f"accuracy is {now.value:.1%}, {now.high:.1%} at most by {now.size} labels; it was {cohort.before:.1%}: "
        f"{cohort.lost():.1f} points or more are lost"
    )
