"""Back to the start of the loop: from open alarms and labelled samples to the next release, by policy.

    look → decide (pure, ``policy``) → grow the dataset → train warm → compress → compare with the champion → publish
    → roll out

Each step is an event with actor ``policy``. A candidate that fails a gate is an event too, and the champion stays.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from skerry_cloud.job import Progress, Report
from skerry_cloud.retrain.harm import proven
from skerry_cloud.retrain.policy import Cohort, Policy, Situation, decide, hindered, is_harmed
from skerry_cloud.specs import Wanted
from skerry_cloud.store import Alarm, Bundle, Dataset, Event, Installed, Release, Rollout, Run, Store
from skerry_shared.errors import GateError, SkerryError
from skerry_shared.states import HEALTH, Health, HealthEvent, step

log = logging.getLogger(__name__)

ACTOR = "policy"
ALPHA = 0.05  # probability that harm is stated where there is none, however often labels are looked at


class Samples(Protocol):
    """Labelled inputs from the field: n × raw shape, int64 label places, and the device that each came from; which
    release answered, whether it was right, and the probability of the sample's inclusion."""

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
        self, workload: str, actor: str, report: Report, samples: Path | None = None, parent: int = 0
    ) -> Dataset:
        """Grow a dataset."""
        ...

    async def train(self, workload: str, dataset: int, parent: int, epochs: int, actor: str, report: Report) -> Run:
        """Train on it."""
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
StartRollout = Callable[[str, int], Awaitable[object]]  # (workload, release)


class Retrainer:
    """Watches open alarms and acts by the policy; one retraining at a time for each workload."""

    def __init__(
        self, store: Store, steps: Steps, labelled: Labelled, start: StartRollout, policy: Policy, folder: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """``folder`` is where samples wait for ingestion; ``clock`` gives Unix seconds."""
        self._store, self._steps, self._labelled, self._start = store, steps, labelled, start
        self._policy, self._folder, self._clock = policy, folder, clock

    async def tick(self) -> None:
        """Close alarms that were answered; retrain where the policy says so (this returns when it is done)."""
        await self._close_answered()
        await self._take_back_halted()
        drifting = Alarm.health.in_([Health.DRIFT.value, Health.HARM.value])
        alarms = await self._store.all(select(Alarm).where(Alarm.state == "open", drifting))
        for workload in sorted({alarm.workload for alarm in alarms}):
            await self._consider(workload, [alarm for alarm in alarms if alarm.workload == workload])

    async def _consider(self, workload: str, alarms: Sequence[Alarm]) -> None:
        # Since the alarm, not since the drift began: a window may hold both worlds, and the new one is to be learned.
        since = {device: alarm.raised for alarm in alarms for device in alarm.devices}
        now = self._clock()
        situation = Situation(
            cohorts=[await self._cohort(alarm, None) for alarm in alarms], labelled=0, busy=await self._busy(workload),
            last_retrained=await self._last(workload), hour=time.localtime(now).tm_hour,
        )  # fmt: skip
        if hindered(self._policy, situation, now):
            return  # whatever labels say: no need to read the lake
        samples = await self._labelled(workload, since)
        cohorts = [await self._cohort(alarm, samples) for alarm in alarms]
        verdict = decide(self._policy, replace(situation, cohorts=cohorts, labelled=len(samples.labels)), now)
        for alarm, cohort in zip(alarms, cohorts, strict=True):
            if alarm.health == Health.DRIFT and is_harmed(self._policy, cohort):
                await self._move([alarm], HealthEvent.HARMED, _harm(cohort))
        if not verdict.retrain:
            return
        await self._move(alarms, HealthEvent.STARTED, verdict.reason)
        await self._note(workload, "", "retraining", verdict.reason)
        try:
            await self._retrain(workload, max(alarm.release for alarm in alarms), samples, verdict.reason)
        except SkerryError as error:
            await self._note(workload, "retraining", "given up", str(error))
            await self._move(alarms, HealthEvent.GAVE_UP, str(error))
        else:
            await self._move(alarms, HealthEvent.RELEASED, verdict.reason)

    async def _cohort(self, alarm: Alarm, samples: Samples | None) -> Cohort:
        """What labels prove about the release that drifted, on the devices of its alarm."""
        release = await self._store.get(Release, alarm.workload, alarm.release)
        before = (await self._store.get(Run, release.run)).accuracy
        if samples is None:
            return Cohort(alarm.name or alarm.level, before, proven([], [], ALPHA))
        mine = np.isin(np.array(samples.sources, dtype=np.str_), alarm.devices) & (samples.releases == alarm.release)
        return Cohort(
            alarm.name or alarm.level, before, proven(samples.right[mine], samples.probabilities[mine], ALPHA)
        )

    async def _move(self, alarms: Sequence[Alarm], event: HealthEvent, reason: str) -> None:
        """The health of these cohorts after ``event``."""
        async with self._store.begin() as session:
            for alarm in alarms:
                row = await session.get_one(Alarm, alarm.id)
                before, row.health = row.health, step(HEALTH, Health(row.health), event).value
                alarm.health = row.health
                session.add(Event(time=self._clock(), kind="health", name=row.title, before=before, after=row.health,
                                  reason=reason, actor=ACTOR))  # fmt: skip

    async def _retrain(self, workload: str, champion: int, samples: Samples, why: str) -> None:
        release = await self._store.get(Release, workload, champion)
        run = await self._store.get(Run, release.run)
        file = self._save(workload, samples)
        try:
            dataset = await self._steps.ingest(workload, ACTOR, self._report, file, run.dataset)
        finally:
            file.unlink()
        candidate = await self._steps.train(
            workload, dataset.number, champion, self._policy.epochs, ACTOR, self._report
        )
        bundles = await self._store.all(select(Bundle).where(Bundle.workload == workload, Bundle.release == champion))
        names = [bundle.profile for bundle in bundles]
        wanted = Wanted(tuple(names), recipes=self._steps.recipes(run.id), device_minutes=0)
        await self._steps.compress(candidate.id, wanted, ACTOR, self._report)
        judged = await self._steps.compare(run.id, candidate.id, self._policy.max_loss, self._report)
        if not judged.passed:
            raise GateError(judged.reason)
        published = await self._steps.publish(candidate.id, f"{why}; {judged.reason}", ACTOR)
        await self._note(workload, "retraining", f"release {published.number}", judged.reason)
        if self._policy.approval:
            how = f"start it with `skerry rollout start {workload}/{published.number}`"
            await self._note(workload, f"release {published.number}", "waits for approval", how)
        else:
            await self._start(workload, published.number)

    async def _last(self, workload: str) -> float:
        """When a retraining last began or ended; 0 for never."""
        told = select(Event).where(Event.kind == "retrain", Event.name == workload).order_by(Event.id.desc())
        event = await self._store.first(told)
        return event.time if event else 0.0

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
            for alarm in (await session.scalars(select(Alarm).where(Alarm.state == "open"))).all():
                if not any(_is_about(alarm, one) for one in installed):
                    alarm.state, alarm.health = "resolved", Health.OK.value
                    why = f"{', '.join(alarm.devices)}: {alarm.workload}/{alarm.release} runs no more"
                    session.add(Event(time=self._clock(), kind="alarm", name=alarm.title, before="open",
                                      after="resolved", reason=why, actor=ACTOR))  # fmt: skip

    async def _take_back_halted(self) -> None:
        """What a retraining was to cure still drifts where its rollout halted, or the cloud's end cut it short."""
        under_way = Alarm.health.in_([Health.RETRAIN.value, Health.CANARY.value])
        for alarm in await self._store.all(select(Alarm).where(Alarm.state == "open", under_way)):
            newest = select(Rollout).where(Rollout.workload == alarm.workload, Rollout.release > alarm.release)
            rollout = await self._store.first(newest.order_by(Rollout.id.desc()))
            if alarm.health == Health.RETRAIN or (rollout and rollout.state == "halted"):
                why = f"rollout {rollout.id} halted" if rollout else "the retraining was cut short"
                await self._move([alarm], HealthEvent.GAVE_UP, why)

    def _save(self, workload: str, samples: Samples) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{workload}.npz"
        sources = np.array([f"device:{name}" for name in samples.sources])
        np.savez(file, inputs=samples.inputs, labels=samples.labels, sources=sources)
        return file

    def _report(self, progress: Progress) -> None:
        if progress.done == progress.total:
            log.info("retraining: %s: %s", progress.stage, progress.note or "done")

    async def _note(self, workload: str, before: str, after: str, reason: str) -> None:
        async with self._store.begin() as session:
            session.add(Event(time=self._clock(), kind="retrain", name=workload, before=before, after=after,
                              reason=reason, actor=ACTOR))  # fmt: skip


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
