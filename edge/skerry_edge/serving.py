"""What answers on this device, and who watches it: a recorder and a guard for each workload that serves."""

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Protocol

from skerry_edge.config import AgentConfig
from skerry_edge.infer.choose import Choice, runs_at_once
from skerry_edge.infer.engine import Active, Engine
from skerry_edge.infer.models import Chosen
from skerry_edge.infer.scheduler import Limits
from skerry_edge.observe.recorder import Recorder, Sink
from skerry_edge.observe.span import Span
from skerry_edge.protect.guard import Guard, Guarded
from skerry_shared.ports.runtime import Model
from skerry_shared.release import Manifest

log = logging.getLogger(__name__)

CORES = os.cpu_count() or 1  # a run has the configured number of threads
WAITING = 64  # requests that may wait for a model


class Upkeep(Protocol):
    """Who looks at guards; see ``upkeep``."""

    def watch(self, workload: str, release: int, guard: Guard) -> None: ...  # noqa: D102
    def forget(self, workload: str) -> None: ...  # noqa: D102


class Service(Protocol):
    """Who tells how models served; see ``observe.service``."""

    def watch(self, workload: str, release: int, guard: Guard) -> None: ...  # noqa: D102


class Serving:
    """Puts models into the engine. Any thread; one at a time for each workload."""

    def __init__(
        self, engine: Engine, config: AgentConfig, sink: Sink, failed: Callable[[str, int], None], upkeep: Upkeep,
        service: Service,
    ) -> None:  # fmt: skip
        """``failed`` hears of the workload and the release that could not answer a request."""
        self._engine, self._config, self._sink = engine, config, sink
        self._failed, self._upkeep, self._service = failed, upkeep, service
        self._recorders: dict[str, Recorder] = {}
        self._rate = config.sample_rate

    def activate(self, manifest: Manifest, model: Model) -> None:
        """Let this model answer and be recorded from now on."""
        workload, release = manifest.workload, manifest.release
        recorder = Recorder(manifest, self._sink, Span(self._config.window_s), self._rate)
        guard = Guard(len(manifest.labels), self._config.protect)
        failed = partial(self._failed, workload, release)
        self._engine.swap(Active(manifest, Guarded(model, guard), recorder.observe, failed, _limits(model)))
        self._upkeep.watch(workload, release, guard)
        self._service.watch(workload, release, guard)
        log.info("serving %s release %d", workload, release)
        self._replace(workload, recorder)

    def drop(self, workload: str) -> None:
        """Let no model of this workload answer any more."""
        self._engine.drop(workload)
        self._upkeep.forget(workload)
        self._replace(workload, None)

    def sample_at(self, rate: float) -> None:
        """Sample this share of all answers from now on, 0 to 1."""
        self._rate = rate
        for recorder in list(self._recorders.values()):
            recorder.sample_at(rate)

    def tick(self) -> None:
        """Pass on what was recorded and is due."""
        for recorder in list(self._recorders.values()):
            recorder.tick()

    def close(self) -> None:
        """Pass on all that was recorded."""
        for recorder in list(self._recorders.values()):
            recorder.close()

    def _replace(self, workload: str, recorder: Recorder | None) -> None:
        before = self._recorders.pop(workload, None)
        if recorder:
            self._recorders[workload] = recorder
        if before:
            before.close()


def _limits(model: Model) -> Limits:
    """What was measured of the model says whether runs are worth sharing."""
    choice = model.choice if isinstance(model, Chosen) else Choice("cpu", 1, "not measured")
    return Limits(threads=runs_at_once(choice, CORES), waiting=WAITING, batch=choice.batch)
