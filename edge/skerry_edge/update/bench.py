"""Benchmark jobs: how does a candidate do on this device? It is measured, the figures go home, and it is gone.

A job is an assignment of mode "measure", trusted no more than any other. It waits until the device is idle, and gives
way when it no longer is. It is done when its rows are durable: killed before that, it begins anew. What serves, and
what it can go back to, is not touched.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from skerry_edge.update import plan
from skerry_edge.update.plan import Device, Floor, Order
from skerry_edge.update.state import StateFile, Stored
from skerry_edge.update.world import Door, Repository
from skerry_shared import bundle
from skerry_shared.bundle import Bundle
from skerry_shared.errors import LinkError, ModelError, TrustError, UnfitError
from skerry_shared.files import sync_folder
from skerry_shared.release import Assignment

log = logging.getLogger(__name__)

LOOK_S = 2.0  # between looks whether the device is idle
RETRY_S = 30.0  # between attempts to fetch

Row = dict[str, Any]  # of telemetry table "measured"
NOTHING: Row = {"provider": "", "max_diff": 0.0, "p50_ms": 0.0, "load_ms": 0.0, "memory_mb": 0.0}


class Finding(Protocol):
    """What one provider made of a candidate; see ``infer.choose``."""

    @property
    def provider(self) -> str: ...  # noqa: D102
    @property
    def fault(self) -> str: ...  # noqa: D102
    @property
    def max_diff(self) -> float: ...  # noqa: D102
    @property
    def p50_ms(self) -> float: ...  # noqa: D102
    @property
    def load_ms(self) -> float: ...  # noqa: D102
    @property
    def memory_mb(self) -> float: ...  # noqa: D102


class OccupiedError(Exception):
    """The device has something else to do now."""


@dataclass(frozen=True)
class Site:
    """All that a benchmark job needs of its device."""

    device: Device
    device_class: str
    repository: Repository
    floor: Floor
    occupied: Callable[[], str]  # why nothing can be measured now; empty where the device is idle
    survey: Callable[[Bundle, Callable[[str], None]], Sequence[Finding]]  # tells of its progress; raises ModelError
    report: Callable[[Sequence[Row]], None]  # rows to be kept durably
    clock: Callable[[], float]  # Unix seconds


class Bench:
    """Takes in one job at a time; a newer one takes the place of one that is not done. Not thread-safe."""

    def __init__(self, site: Site, folder: Path, door: Door) -> None:
        """``folder`` gets the newest job, and for a while the candidate."""
        self._site, self._door, self._folder, self._place = site, door, folder, folder / "candidate"
        self._file = StateFile(folder / "job")
        self._stored = self._file.load()

    def start(self) -> None:
        """Clear away what a kill left."""
        self._folder.mkdir(exist_ok=True)
        sync_folder(self._folder.parent)
        shutil.rmtree(self._place, ignore_errors=True)

    def receive(self, order: Order) -> None:
        """Take in a job. One that does not count is reported and changes nothing."""
        try:
            accepted = plan.accept(order, self._stored, self._site.floor.now())
        except TrustError as error:
            self._door.turn_away(str(error))
            return
        if accepted:
            self._site.floor.raise_to(accepted.floor)
            self._save(replace(accepted, told=False))

    def advance(self) -> float | None:
        """Do the job if there is one. Seconds until this should be called again; None: when there is news."""
        if self._stored.told:
            return None
        try:
            self._give_way()
            rows = self._measured(self._stored.assignment)
        except OccupiedError as error:
            log.info("benchmark waits: %s", error)
            return LOOK_S
        except (LinkError, OSError) as error:
            log.warning("benchmark waits: %s", error)
            return RETRY_S
        self._site.report(rows)
        self._save(replace(self._stored, told=True))
        log.info("benchmark %d of %s is done", self._stored.counter, self._stored.assignment.workload)
        return None

    def _measured(self, assignment: Assignment) -> list[Row]:
        try:
            return [self._row(assignment, **_figures(finding)) for finding in self._findings(assignment)]
        except (TrustError, UnfitError, ModelError) as error:
            return [self._row(assignment, **NOTHING | {"fault": str(error)})]
        finally:
            shutil.rmtree(self._place, ignore_errors=True)

    def _findings(self, assignment: Assignment) -> Sequence[Finding]:
        site, target = self._site, assignment.target
        plan.check_expiry(assignment, site.floor.now())
        log.info("benchmark %d of %s begins", assignment.counter, assignment.workload)
        target.check(site.device.arch, site.device.runtimes, site.device.memory_bytes)
        data = site.repository.fetch(assignment.path, assignment.sha256, assignment.length)
        unpacked = bundle.unpack(data, self._place)
        plan.check_manifest(assignment, unpacked.manifest)
        return site.survey(unpacked, self._give_way)

    def _give_way(self, _: str = "") -> None:
        if why := self._site.occupied():
            raise OccupiedError(why)

    def _row(self, assignment: Assignment, **found: Any) -> Row:
        about = {"workload": assignment.workload, "job": assignment.counter, "sha256": assignment.sha256}
        return {"time": self._site.clock(), **about, **found, "device_class": self._site.device_class}

    def _save(self, stored: Stored) -> None:
        self._file.save(stored)
        self._stored = stored


def _figures(finding: Finding) -> Row:
    memory_mb = max(0.0, finding.memory_mb)  # a runtime may give back more than the model takes
    return {"provider": finding.provider, "fault": finding.fault, "max_diff": finding.max_diff,
            "p50_ms": finding.p50_ms, "load_ms": finding.load_ms, "memory_mb": memory_mb}  # fmt: skip
