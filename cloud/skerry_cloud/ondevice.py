"""The finalists of a compression on devices: packaged, signed, sent, waited for, withdrawn.

A device runs nothing that it cannot verify, so a candidate travels as releases do. It is of release 0, which never
serves, and is out of the repository again as soon as nobody waits for it.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from skerry_cloud import runs
from skerry_cloud.compress import study
from skerry_cloud.compress.study import Answers, OnDevice, Search, Study
from skerry_cloud.fleet.director import Candidate
from skerry_cloud.job import Progress, Report
from skerry_cloud.release.package import package_variant
from skerry_cloud.release.repository import Repository
from skerry_shared import identity, profiles
from skerry_shared.errors import SkerryError
from skerry_shared.release import Kind, Lineage

Row = Mapping[str, Any]


class Benchmarks(Protocol):
    """The fleet's devices; see ``fleet.benchmarks``."""

    async def idle(self, profile: str) -> str | None: ...  # noqa: D102
    async def measure(self, device: str, candidate: Candidate, seconds: float) -> list[Row]: ...  # noqa: D102


@dataclass(frozen=True)
class Subject:
    """What is measured: a run's finalists."""

    folder: Path
    workload: str
    lineage: Lineage


class Devices:
    """``publishing`` is held while the repository is written."""

    def __init__(self, repository: Repository, publishing: asyncio.Lock, benchmarks: Benchmarks) -> None:
        self._repository, self._publishing, self._benchmarks = repository, publishing, benchmarks

    async def recover(self) -> None:
        """Withdraw what the cloud's end left signed."""
        async with self._publishing:
            await asyncio.to_thread(self._repository.withdraw_candidates, identity.utc(time.time()))

    async def idle(self, names: tuple[str, ...]) -> dict[str, str]:
        """For each of these profiles that has one: a device that could measure something now."""
        found = {name: await self._benchmarks.idle(name) for name in names}
        return {name: device for name, device in found.items() if device}

    async def ask(
        self, subject: Subject, devices: Mapping[str, str], seconds: float, report: Report
    ) -> tuple[Answers, ...]:
        """What these devices (by profile) say of the run's finalists, within so many seconds."""
        record = runs.read(Study, subject.folder / study.FOLDER / study.STUDY)
        searches = {search.kind: search for search in record.searches}
        until = time.monotonic() + seconds
        told = await asyncio.gather(
            *(
                self._ask_safely(subject, searches[profiles.load(profile).kind], profile, device, until, report)
                for profile, device in devices.items()
            )
        )
        return _merged(told)

    async def _ask_safely(
        self, subject: Subject, search: Search, profile: str, device: str, until: float, report: Report
    ) -> Answers:
        """One that cannot be asked is as one that does not answer."""
        try:
            return await self._ask(subject, search, profile, device, until, report)
        except SkerryError as error:
            return Answers(search.kind, {}, f"{device} could not be asked: {error}")

    async def _ask(
        self, subject: Subject, search: Search, profile: str, device: str, until: float, report: Report
    ) -> Answers:
        candidates = await self._publish(subject, search, profile)
        found = dict[str, tuple[OnDevice, ...]]()
        try:
            for recipe, candidate in candidates.items():
                report(Progress(device, len(found), len(candidates), f"measures {recipe}"))
                rows = await self._benchmarks.measure(device, candidate, max(0.0, until - time.monotonic()))
                found[recipe] = tuple(_on_device(row, profile) for row in rows)
            report(Progress(device, len(found), len(candidates)))
        except asyncio.TimeoutError:
            late = f"{device} answered {len(found)} of {len(candidates)} in time"
            return Answers(search.kind, found, late)
        finally:
            await self._withdraw(subject.workload, [candidate.path for candidate in candidates.values()])
        return Answers(search.kind, found, "")

    async def _publish(self, subject: Subject, search: Search, profile: str) -> dict[str, Candidate]:
        """The finalists, signed, by recipe."""
        target = profiles.load(profile).target(profile)
        variants = {
            trial.recipe: runs.finalist(subject.folder, search.kind, trial.recipe)
            for trial in search.trials
            if trial.passed
        }
        bundles = {
            f"{profile}-{variant.folder.name}": await asyncio.to_thread(
                package_variant, subject.folder, variant, target, subject.workload, 0, subject.lineage
            )
            for variant in variants.values()
        }
        async with self._publishing:
            placed = await asyncio.to_thread(
                self._repository.publish, subject.workload, 0, bundles, identity.utc(time.time())
            )
        return {
            recipe: Candidate(subject.workload, there.path, there.sha256, there.length, target)
            for recipe, there in zip(variants, placed.values(), strict=True)
        }

    async def _withdraw(self, workload: str, paths: list[str]) -> None:
        async with self._publishing:
            await asyncio.to_thread(self._repository.withdraw, workload, paths, identity.utc(time.time()))


def _on_device(row: Row, profile: str) -> OnDevice:
    return OnDevice(
        profile=profile, device=row["device"], device_class=row["device_class"], provider=row["provider"],
        fault=row["fault"], max_diff=row["max_diff"], latency_ms=row["p50_ms"], load_ms=row["load_ms"],
        memory_mb=row["memory_mb"],
    )  # fmt: skip


def _merged(told: list[Answers]) -> tuple[Answers, ...]:
    """One for each kind: several profiles may share one."""
    kinds = dict[Kind, Answers]()
    for each in told:
        before = kinds.get(each.kind, Answers(each.kind, {}, ""))
        found = {
            recipe: before.found.get(recipe, ()) + each.found.get(recipe, ())
            for recipe in dict.fromkeys([*before.found, *each.found])
        }
        kinds[each.kind] = Answers(each.kind, found, "; ".join(filter(None, (before.silent, each.silent))))
    return tuple(kinds.values())
