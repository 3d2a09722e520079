"""What the Open Inference Protocol's servers serve and say, whichever wire it goes over.

Every description is one document in the names of the protocol's JSON; REST sends it as it is, and gRPC parses it into
the message of the same fields. Which models there are is decided by the fleet's assignments: the repository extension
shows those that serve, loading one of them succeeds and changes nothing, and unloading is refused.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from skerry_edge.serve import datatypes
from skerry_edge.serve.statistics import Statistics
from skerry_edge.serve.truths import Learn
from skerry_shared import __version__
from skerry_shared.errors import InputError, NotFoundError, SkerryError, StateError, UsageError
from skerry_shared.ports.runtime import Tensors
from skerry_shared.release import ANY, Manifest, TensorSpec

EXTENSIONS = ("binary_tensor_data", "model_repository", "model_configuration", "schedule_policy", "statistics")
MAX_BATCH = 1024  # examples in one request that the model configuration promises, where the batch is free
DEFAULT_LEVEL = 2  # of priority
RELEASES = 64  # whose statistics are kept; the oldest give way

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
    """What answers. ``manifest`` is of the model of that name, if one serves, ``manifests`` are of all that serve.

    ``predict`` raises SkerryError. A request of a higher ``priority`` goes first.
    """

    def manifest(self, name: str) -> Manifest | None: ...  # noqa: D102
    def manifests(self) -> Sequence[Manifest]: ...  # noqa: D102
    def predict(  # noqa: D102
        self, inputs: Tensors, model: str = "", timeout_s: float | None = None, priority: int = 0
    ) -> Prediction: ...


class Policy(NamedTuple):
    """When a request must begin, by the monotonic clock, and what goes before it."""

    deadline: float | None = None
    priority: int = 0

    def timeout_s(self) -> float | None:
        """What is left."""
        return None if self.deadline is None else self.deadline - time.monotonic()


class Catalog:
    """The models of this device, as both wires see them."""

    def __init__(self, engine: Engine, learn: Learn = lambda _: None) -> None:
        """``learn`` takes late labels, and returns once they are durable."""
        self._engine, self.learn = engine, learn
        self._statistics: dict[tuple[str, int], Statistics] = {}

    def server(self) -> Document:
        """$metadata_server_response."""
        return {"name": "skerry-agent", "version": __version__, "extensions": list(EXTENSIONS)}

    @property
    def ready(self) -> bool:
        """Whether a model serves."""
        return bool(self._engine.manifests())

    def serves(self, name: str, version: str = "") -> bool:
        """Whether this model, in this version if one is given, serves."""
        return self._serving(name, version) is not None

    def answer(
        self, name: str, version: str, read: Callable[[], Tensors], write: Callable[[Prediction], T], policy: Policy
    ) -> T:
        """Read the inputs, let the model answer, write the reply; counted. Raises SkerryError as each of them does."""
        manifest = self._find(name, version)
        statistics, started = self._statistics_of(manifest), time.perf_counter_ns()
        try:
            inputs = read()
            was_read = time.perf_counter_ns()
            prediction = self._engine.predict(inputs, name, policy.timeout_s(), policy.priority)
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
        manifest = self._find(name, version)
        return {
            "name": manifest.workload,
            "versions": [str(manifest.release)],
            "platform": _platform(manifest),
            "inputs": [_metadata(spec) for spec in manifest.inputs],
            "outputs": [_metadata(spec) for spec in manifest.outputs],
        }

    def config(self, name: str, version: str = "") -> Document:
        """The fields of ModelConfig that we fill. Raises NotFoundError or StateError."""
        manifest = self._find(name, version)
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
        manifests = [self._find(name, version)] if name else self._engine.manifests()
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
            for manifest in self._engine.manifests()
        ]

    def load(self, name: str) -> None:
        """Succeeds for a model that serves. Raises NotFoundError or StateError."""
        self._find(name)

    def unload(self, name: str) -> None:
        """Raises UsageError always, NotFoundError or StateError where there is no such model."""
        manifest = self._find(name)
        raise UsageError(
            f"model {name!r}: not unloaded; release {manifest.release} is the fleet's assignment to this device; "
            "an operator changes it with `skerry rollout`, or takes it off with `skerry device drop`"
        )

    def _serving(self, name: str, version: str) -> Manifest | None:
        manifest = self._engine.manifest(name)
        return manifest if manifest and version in ("", str(manifest.release)) else None

    def _find(self, name: str, version: str = "") -> Manifest:
        if manifest := self._serving(name, version):
            return manifest
        here = ", ".join(f"{manifest.workload!r} {manifest.release}" for manifest in self._engine.manifests())
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


def policy_of(remaining: float | None, parameters: Mapping[str, object]) -> Policy:
    """How a request is scheduled that must be answered in ``remaining`` seconds, if it must, and has ``parameters``.

    Of the schedule policy extension: ``timeout`` in microseconds, 0 for none; ``priority`` from 1, which goes first,
    on; 0 is as 2. Raises InputError that names the parameter.
    """
    timeout, level = _number(parameters, "timeout"), _number(parameters, "priority")
    limits = [limit for limit in (remaining, timeout / 1e6 if timeout else None) if limit is not None]
    return Policy(time.monotonic() + min(limits) if limits else None, DEFAULT_LEVEL - (level or DEFAULT_LEVEL))


def _number(parameters: Mapping[str, object], name: str) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise InputError(f"parameter {name!r}: {str(value)[:40]!r} is not a number from 0")
    return value


def _platform(manifest: Manifest) -> str:
    return f"{manifest.target.runtime}_{manifest.model_file.rpartition('.')[2]}"


def _metadata(spec: TensorSpec) -> Document:
    return {"name": spec.name, "datatype": datatypes.NAMES[spec.dtype], "shape": list(spec.shape)}


def _config(spec: TensorSpec, batched: bool) -> Mapping[str, Any]:
    dims = list(spec.shape[1:] if batched else spec.shape)
    return {"name": spec.name, "data_type": f"TYPE_{datatypes.NAMES[spec.dtype]}", "dims": dims}
