"""From an unpacked bundle to a loaded model: tried in a child process first, then loaded on what proved the fastest.

The agent tries (``Loader.load``); an application in whose process a model runs takes the agent's word (``load_model``).
"""

import hashlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skerry_edge.infer.choose import Choice, Finding, choose
from skerry_edge.infer.engines import Engines, Key, device_class
from skerry_edge.infer.measure import GROUP, Job
from skerry_edge.infer.trial import PROGRESS_S, Progress, try_out
from skerry_shared import plugins
from skerry_shared.bundle import Bundle
from skerry_shared.errors import ModelError, UsageError
from skerry_shared.locking import turn
from skerry_shared.ports.runtime import CPU, Model, Runtime

log = logging.getLogger(__name__)

TRIALS = threading.Lock()  # they take a core and measure times: one at a time


@dataclass(frozen=True)
class Settings:
    """How models are to be run here."""

    providers: Sequence[str] = (CPU,)  # in order of preference
    threads: int = 1
    memory_bytes: int = 1 << 30  # that one may take


class Chosen:
    """A loaded model, and why it runs on what it runs on."""

    def __init__(self, model: Model, choice: Choice) -> None:
        self.run, self.choice = model.run, choice


def load_model(bundle: Bundle, threads: int, provider: str = CPU, cache: Path | None = None) -> Model:
    """Load the bundle's model. Raises ModelError if its runtime is missing or refuses it."""
    return _runtime(bundle).load(bundle.model, threads, provider, cache)


def usable_runtimes() -> tuple[str, ...]:
    """Names of the runtimes that are registered and whose packages are here."""
    return tuple(name for name in plugins.names(GROUP) if _usable(name))


def _usable(name: str) -> bool:
    try:
        plugins.load(GROUP, name)().version()
    except (UsageError, ModelError):
        return False
    return True


class Loader:
    """Loads the models of one workload. One thread at a time; those of several loaders try one after the other."""

    def __init__(self, engines: Engines, settings: Settings, progress: Progress = log.info) -> None:
        self._engines, self._settings, self._progress = engines, settings, progress
        self._class = device_class()

    def load(self, bundle: Bundle, threads: int | None = None) -> Chosen:
        """The model on the fastest provider that is right. Each that is not known yet is tried in a child first.

        ``threads``: fewer than the settings', on which the choice is made, where the board is under strain.

        Raises ModelError if none will do.
        """
        keys = self._keys(bundle)
        choice = choose([self._find(bundle, provider, key) for provider, key in keys.items()])
        return self._loaded(bundle, choice, keys, threads)

    def known(self, bundle: Bundle) -> Chosen:
        """As the agent chose for this bundle, without trying anything; on the CPU if it never did."""
        keys = self._keys(bundle)
        found = [finding for key in keys.values() if (finding := self._engines.finding(key))]
        return self._loaded(bundle, choose(found or [Finding(CPU)]), keys)

    def survey(self, bundle: Bundle) -> list[Finding]:
        """What each configured provider makes of it, tried now, in the order of preference. Nothing is loaded here."""
        return [self._try(bundle, provider, key) for provider, key in self._keys(bundle).items()]

    def examine(self, bundle: Bundle) -> str:
        """For the doctor: try every configured provider now. Raises ModelError on a fall-back, or if none will do."""
        choice = choose(self.survey(bundle))
        if choice.fallback_from:
            raise ModelError(f"runs on {choice.provider} instead of {choice.fallback_from}: {choice.reason}")
        return choice.reason

    def _loaded(self, bundle: Bundle, choice: Choice, keys: dict[str, Key], threads: int | None = None) -> Chosen:
        provider = choice.provider
        cache = self._engines.path(keys[provider]) if provider in keys else None
        return Chosen(load_model(bundle, threads or self._settings.threads, provider, cache), choice)

    def _find(self, bundle: Bundle, provider: str, key: Key) -> Finding:
        return self._engines.finding(key) or self._try(bundle, provider, key)

    def _try(self, bundle: Bundle, provider: str, key: Key) -> Finding:
        settings, cache = self._settings, self._engines.made(key).resolve()
        folder = bundle.model.parent.resolve()  # the child has another working directory
        job = Job(str(folder), provider, settings.threads, str(cache), settings.memory_bytes)
        with turn(TRIALS, PROGRESS_S, lambda: self._progress("waits: another model is being tried")):
            finding = try_out(job, self._progress)
        if not finding.fault:
            self._engines.save(key, finding)
        return finding

    def _keys(self, bundle: Bundle) -> dict[str, Key]:
        sha256, version = hashlib.sha256(bundle.model.read_bytes()).hexdigest(), _runtime(bundle).version()
        threads, device = self._settings.threads, self._class
        return {provider: Key(sha256, version, provider, threads, device) for provider in self._settings.providers}


def _runtime(bundle: Bundle) -> Runtime:
    try:
        runtime: Runtime = plugins.load(GROUP, bundle.manifest.target.runtime)()
    except UsageError as error:
        raise ModelError(str(error)) from None
    return runtime
