"""What the Open Inference Protocol's servers serve and say, whichever wire it goes over.

Every description is one document in the names of the protocol's JSON; REST sends it as it is, and gRPC parses it into
the message of the same fields. Which models there are is decided by the fleet's assignment: the repository extension
shows them, loading the one that serves succeeds and changes nothing, and unloading is refused.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from skerry_edge.serve import datatypes
from skerry_edge.serve.statistics import Statistics
from skerry_shared import __version__
from skerry_shared.errors import InputError, NotFoundError, SkerryError, StateError, UsageError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.release import ANY, Manifest, TensorSpec

EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "statistics")
MAX_BATCH = 1024  # examples in one request that the model configuration promises, where the batch is free
RELEASES = 16  # whose statistics are kept; the oldest give way

Document = dict[str, Any]
T = TypeVar("T")


class Prediction(Protocol):
    """What an engine answers."""

    @property
    def manifest(self) -> Manifest: ...  # noqa: D102
    @property
    def prediction_id(self) -> str: ...  # noqa: D102
    @property
    def ids(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def outputs(self) -> Tensors: ...  # noqa: D102


class Engine(Protocol):
    """What answers for one workload. ``deadline`` is of the monotonic clock.

    ``predict`` raises StateError, InputError, ModelError, OverloadError or DeadlineError.
    """

    @property
    def manifest(self) -> Manifest | None: ...  # noqa: D102
    def predict(self, inputs: Tensors, deadline: float | None = None) -> Prediction: ...  # noqa: D102


class Catalog:
    """The models of this device; ``engines`` may grow and shrink meanwhile."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._statistics: dict[tuple[str, int], Statistics] = {}

    def server(self) -> Document:
        """$metadata_server_response."""
        return {"name": "skerry-agent", "version": __version__, "extensions": list(EXTENSIONS)}

    @property
    def ready(self) -> bool:
        """Whether every model serves, and there is one."""
        return bool(self._engines) and all(engine.manifest is not None for engine in self._engines)

    def serves(self, name: str, version: str = "") -> bool:
        """Whether this model, in this version if one is given, serves."""
        return any(_is(manifest, name, version) for manifest in self._manifests())

    def answer(
        self,
        name: str,
        version: str,
        read: Callable[[], Tensors],
        write: Callable[[Prediction], T],
        deadline: float | None,
    ) -> T:
        """Read the inputs, let the model answer, write the reply; counted. Raises SkerryError as each of them does."""
        engine, manifest = self._find(name, version)
        statistics, started = self._statistics_of(manifest), time.perf_counter_ns()
        try:
            inputs = read()
            was_read = time.perf_counter_ns()
            prediction = engine.predict(inputs, deadline)
            has_run = time.perf_counter_ns()
            reply = write(prediction)
        except SkerryError:
            statistics.failed(time.perf_counter_ns() - started)
            raise
        written = time.perf_counter_ns()
        statistics.succeeded(len(prediction.ids), was_read - started, has_run - was_read, written - has_run)
        return reply

    def metadata(self, name: str, version: str = "") -> Document:
        """$metadata_model_response. Raises NotFoundError or StateError."""
        manifest = self._find(name, version)[1]
        return {
            "name": manifest.workload,
            "versions": [str(manifest.release)],
            "platform": _platform(manifest),
            "inputs": [_metadata(spec) for spec in manifest.inputs],
            "outputs": [_metadata(spec) for spec in manifest.outputs],
        }

    def config(self, name: str, version: str = "") -> Document:
        """The fields of ModelConfig that we fill. Raises NotFoundError or StateError."""
        manifest = self._find(name, version)[1]
        batched = all(spec.shape[:1] == (ANY,) for spec in (*manifest.inputs, *manifest.outputs))
        return {
            "name": manifest.workload,
            "platform": _platform(manifest),
            "backend": manifest.target.runtime,
            "max_batch_size": MAX_BATCH if batched else 0,
            "input": [_config(spec, batched) for spec in manifest.inputs],
            "output": [_config(spec, batched) for spec in manifest.outputs],
            "default_model_filename": manifest.model_file,
            "model_transaction_policy": {"decoupled": False},
        }

    def statistics(self, name: str = "", version: str = "") -> Document:
        """$stats_model_response, of all models if none is named. Raises NotFoundError or StateError."""
        manifests = [self._find(name, version)[1]] if name else self._manifests()
        return {
            "model_stats": [
                {"name": manifest.workload, "version": str(manifest.release)} | self._statistics_of(manifest).document()
                for manifest in manifests
            ]
        }

    def index(self) -> list[Document]:
        """$repository_index_response; a model that this device has serves."""
        return [
            {"name": manifest.workload, "version": str(manifest.release), "state": "READY", "reason": ""}
            for manifest in self._manifests()
        ]

    def load(self, name: str) -> None:
        """Succeeds for a model that serves. Raises NotFoundError or StateError."""
        self._find(name)

    def unload(self, name: str) -> None:
        """Raises UsageError always, NotFoundError or StateError where there is no such model."""
        manifest = self._find(name)[1]
        raise UsageError(
            f"model {name!r}: not unloaded; release {manifest.release} is the fleet's assignment to this device, "
            "and an operator changes it with `skerry rollout`"
        )

    def _manifests(self) -> Iterator[Manifest]:
        return (manifest for engine in self._engines if (manifest := engine.manifest) is not None)

    def _find(self, name: str, version: str = "") -> tuple[Engine, Manifest]:
        for engine in self._engines:
            manifest = engine.manifest
            if manifest is not None and _is(manifest, name, version):
                return engine, manifest
        here = ", ".join(f"{manifest.workload!r} {manifest.release}" for manifest in self._manifests())
        if not here:
            raise StateError("no model is installed yet")
        asked = " version ".join(repr(part[: datatypes.MAX_NAME]) for part in (name, version) if part)
        raise NotFoundError(f"model {asked}: not here; this device serves {here}")

    def _statistics_of(self, manifest: Manifest) -> Statistics:
        key = (manifest.workload, manifest.release)
        return self._statistics.get(key) or self._new_statistics(key)

    def _new_statistics(self, key: tuple[str, int]) -> Statistics:
        found = self._statistics.setdefault(key, Statistics())
        if len(self._statistics) > RELEASES:
            self._statistics.pop(next(iter(self._statistics)), None)
        return found


def deadline_of(remaining: float | None, timeout_us: object) -> float | None:
    """When a request must be answered: in ``remaining`` seconds and within its parameter ``timeout``, if it has them.

    Raises InputError unless the parameter is a number of microseconds; 0 sets no limit.
    """
    if type(timeout_us) is not int or not 0 <= timeout_us < 1 << 63:
        raise InputError(f"parameter 'timeout': {str(timeout_us)[:40]!r} is not a number of microseconds")
    limits = [remaining] if remaining is not None else []
    limits += [timeout_us / 1e6] if timeout_us else []
    return time.monotonic() + min(limits) if limits else None


def _is(manifest: Manifest, name: str, version: str) -> bool:
    return name == manifest.workload and version in ("", str(manifest.release))


def _platform(manifest: Manifest) -> str:
    return f"{manifest.target.runtime}_{manifest.model_file.rpartition('.')[2]}"


def _metadata(spec: TensorSpec) -> Document:
    return {"name": spec.name, "datatype": datatypes.NAMES[spec.dtype], "shape": list(spec.shape)}


def _config(spec: TensorSpec, batched: bool) -> Mapping[str, Any]:
    dims = list(spec.shape[1:] if batched else spec.shape)
    return {"name": spec.name, "data_type": f"TYPE_{datatypes.NAMES[spec.dtype]}", "dims": dims}
