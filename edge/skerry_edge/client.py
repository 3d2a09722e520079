"""Predictions in the application's own process: the fastest way, and it works while the agent is away.

The client loads the model that the agent made active, follows the agent when it switches, and reports what it saw
through the agent's socket; nothing it does can change what is installed.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType

from skerry_edge import board
from skerry_edge.config import AgentConfig, Folders, WorkloadFolder, load
from skerry_edge.infer import batch
from skerry_edge.infer.engine import Active, Engine, Prediction
from skerry_edge.infer.engines import Engines
from skerry_edge.infer.models import Loader
from skerry_edge.machine import settings_of, thermal_of
from skerry_edge.observe.arrow import Rows, pack
from skerry_edge.observe.load import LoadLog
from skerry_edge.observe.recorder import Recorder
from skerry_edge.observe.service import ServiceLog
from skerry_edge.observe.span import Span
from skerry_edge.protect.guard import Guard, Guarded
from skerry_edge.serve.local import Reporter
from skerry_edge.update.slots import Pointer, Slots
from skerry_shared import bundle
from skerry_shared.errors import ConfigError, InputError, ModelError, StateError
from skerry_shared.ports.runtime import Tensors

log = logging.getLogger(__name__)

TICK_S = 1.0  # how late a report may be
LOOK_S = 1.0  # between looks at the pointer: one stat, so that a switch is followed within a second


class Client:
    """Answers with one model of the device. Thread-safe; use it as a context manager, or close it."""

    def __init__(self, path: str | Path, model: str = "") -> None:
        """``path``: the device's folder, or the agent's socket in it; ``model``: the name of a workload.

        Without a name it is the only one that serves when the first prediction is asked for, from then on. Raises
        ConfigError if ``path`` is no such folder.
        """
        self._folders = _folders(Path(path))
        self._config: AgentConfig = load(self._folders)
        self._followed = self._folders.workload(model) if model else None
        self._recorder: Recorder | None = None
        self._engine, self._reporter = Engine(), Reporter(self._folders.socket)
        submit, window_s = self._reporter.submit, self._config.window_s
        self._load_log = LoadLog(self._engine.loads, lambda: 0, submit, Span(window_s))
        condition = partial(board.condition, thermal_of(self._config).zones)
        self._service = ServiceLog(condition, submit, Span(window_s))
        self._loaded: Pointer | None = None
        self._lock, self._seen, self._closing = threading.Lock(), (0, 0), threading.Event()
        self._trouble = ""  # why the last look failed; said once, not each second
        # in threads of their own, as sending is: loading takes its time, and so does an agent that is away
        duties = ((TICK_S, self._tick), (LOOK_S, self._follow))
        self._threads = [
            threading.Thread(target=self._every, args=duty, name="skerry-client", daemon=True) for duty in duties
        ]
        for thread in self._threads:
            thread.start()

    def predict(self, inputs: Tensors) -> Prediction:
        """Answer a batch (first dimension: examples).

        Raises StateError without a model, ModelError, InputError, also if there are several models and none was named.
        """
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:  # nobody was quicker
                    self._look()
                if self._loaded is None and self._followed:
                    raise StateError(f"no model of {self._followed.name} is installed here")
        return self._engine.predict(inputs)

    def feedback(self, prediction_id: str, label: str) -> None:
        """Tell what an earlier prediction should have been; ``Prediction.ids`` has an id for each example."""
        self._reporter.label(prediction_id, label)

    @property
    def dropped(self) -> int:
        """Reports that could not be handed to the agent."""
        return self._reporter.dropped

    def close(self) -> None:
        """Hand over what was recorded, and stop."""
        self._closing.set()
        for thread in self._threads:
            thread.join()
        if self._recorder:
            self._recorder.close()
        self._service.flush()
        self._load_log.flush()
        self._reporter.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _every(self, seconds: float, duty: Callable[[], None]) -> None:
        while not self._closing.wait(seconds):
            duty()

    def _tick(self) -> None:
        if recorder := self._recorder:
            recorder.tick()
        self._service.tick()
        self._load_log.tick()

    def _follow(self) -> None:
        serving = self._loaded
        if serving is None:
            return  # the first one is loaded by who asks first
        trouble = ""
        try:
            with self._lock:
                self._look()
        except (ModelError, StateError, OSError) as error:
            trouble = str(error)
            if trouble != self._trouble:
                log.warning("still serving release %d: %s", serving.release, trouble)
        self._trouble = trouble

    def _look(self) -> None:
        folder = self._followed = self._followed or only_workload(self._folders)
        slots = Slots(folder.root)
        seen = _stamp(slots.pointer)
        if seen == self._seen:
            return
        active = slots.active()
        if active != self._loaded:
            self._load(folder, active)
        self._seen = seen

    def _load(self, folder: WorkloadFolder, active: Pointer | None) -> None:
        before, self._recorder = self._recorder, self._swap(folder, active) if active else None
        if active is None:
            self._engine.drop(folder.name)
        self._loaded = active
        if before:
            before.close()

    def _swap(self, folder: WorkloadFolder, active: Pointer) -> Recorder:
        unpacked = bundle.load(Slots(folder.root).path(active.slot))
        manifest = unpacked.manifest
        if (manifest.workload, manifest.release) != (active.workload, active.release):
            raise StateError("the agent switched while its model was being loaded; try again")
        model = Loader(Engines(folder.engines), settings_of(self._config)).known(unpacked)
        config = self._config
        recorder = Recorder(manifest, self._report, Span(config.window_s), config.sample_rate)
        guard = Guard(len(manifest.labels), config.protect)
        self._service.watch(manifest.workload, manifest.release, guard)
        self._engine.swap(Active(manifest, Guarded(model, guard), recorder.observe))
        return recorder

    def _report(self, table: str, rows: Rows) -> None:
        self._reporter.submit(table, pack(table, rows, thorough=table != "samples"))  # of these the agent sends few


class AsyncClient:
    """``Client`` for asyncio: predictions run in threads, so that the loop goes on meanwhile. ``async with`` it."""

    def __init__(self, path: str | Path, model: str = "", threads: int = 4) -> None:
        """``threads``: predictions at a time; further ones wait in order. Else as ``Client``."""
        self._client = Client(path, model)
        self._threads = ThreadPoolExecutor(threads, "skerry-predict")

    async def predict(self, inputs: Tensors) -> Prediction:
        """As ``Client.predict``. Cancelling it forgets the answer; it does not stop a prediction that has begun."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._client.predict, inputs)

    def feedback(self, prediction_id: str, label: str) -> None:
        """As ``Client.feedback``; does not wait."""
        self._client.feedback(prediction_id, label)

    async def close(self) -> None:
        """Let what runs end, hand over what was recorded, and stop."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._client.close)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def answer_all(folders: Folders, model: str, given: Path, out: Path, progress: batch.Progress, size: int) -> int:
    """Answer all that lies in ``given`` with a model of the device, the only one if ``model`` is empty.

    The number of answers; see ``infer.batch``. Raises ConfigError, StateError, InputError or ModelError.
    """
    if size < 1:
        raise ConfigError("size: needs 1 or more")
    config = load(folders)
    folder = folders.workload(model) if model else only_workload(folders)
    slots = Slots(folder.root)
    active = slots.active()
    if active is None:
        raise StateError(f"no model of {folder.name} is installed here")
    unpacked = bundle.load(slots.path(active.slot))
    loaded, manifest = Loader(Engines(folder.engines), settings_of(config)).known(unpacked), unpacked.manifest
    return batch.answer(batch.source(given, manifest), loaded, manifest, out, progress, size)


def only_workload(folders: Folders) -> WorkloadFolder:
    """The one that serves. Raises StateError if none does, InputError if several do."""
    found = [folder for folder in folders.workloads() if Slots(folder.root).active()]
    if len(found) > 1:
        raise InputError(f"model: name one of {', '.join(repr(folder.name) for folder in found)}")
    if not found:
        raise StateError("no model is installed yet")
    return found[0]


def _folders(path: Path) -> Folders:
    return Folders(path.parent.parent if path.name == "agent.sock" else path)


def _stamp(path: Path) -> tuple[int, int]:
    """Changes whenever the file is replaced."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_ino, found.st_mtime_ns)
