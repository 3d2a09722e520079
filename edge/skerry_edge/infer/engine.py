"""The models that serve now, by name. Swapping one replaces one reference: requests in flight finish on the model
that they had.

A request is checked against the manifest before the model sees it, so that a wrong tensor is the caller's error, by
name, and never the model's. What was found right once is recognised by its names, dtypes and shapes.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import getrandbits  # reseeded by a fork, unlike a counter
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from skerry_edge.infer.scheduler import Lane, Limits, Load
from skerry_shared.errors import InputError, ModelError, NotFoundError, OverloadError, StateError
from skerry_shared.ports.runtime import Model, Tensors
from skerry_shared.release import ANY, Manifest, TensorSpec

# (prediction ids, inputs, outputs); quick, thread-safe. Inputs may lie in memory that changes after the call: copy what
# is kept. Outputs are the application's to change.
Observe = Callable[[Sequence[str], Tensors, Tensors], None]

ID_BITS = 96  # of a prediction id: unique, not secret
FORMS = 64  # kinds of request that are recognised; beyond it each is checked anew
LOADS = 64  # releases that serve no more and whose load is still known; the oldest give way

DEFAULT_LIMITS = Limits(threads=os.cpu_count() or 1)


@dataclass(frozen=True)
class Active:
    """A model that serves, what is known about it, and who watches its answers."""

    manifest: Manifest
    model: Model
    observe: Observe
    failed: Callable[[], None] = lambda: None  # the model could not answer a request that fits its manifest
    limits: Limits = DEFAULT_LIMITS


class Prediction(NamedTuple):
    """Answers to one request, the caller's to keep and to change. Example i of several is known as ``ids[i]``."""

    manifest: Manifest  # of the model that answered
    prediction_id: str
    ids: tuple[str, ...]  # what late labels refer to
    outputs: Tensors

    @property
    def release(self) -> int:
        """The release that answered."""
        return self.manifest.release


class Engine:
    """Answers requests with whatever models were put in last, one a workload; any number of threads."""

    def __init__(self) -> None:
        self._served: Mapping[str, _Served] = {}  # replaced as a whole: a reader sees one state of it
        self._only: _Served | None = None  # whom a request without a name is for
        self._loads: dict[tuple[str, int], Load] = {}
        self._least = -math.inf  # priority that is served
        self._changing = threading.Lock()

    def manifest(self, name: str) -> Manifest | None:
        """Of the model of this name; None if none serves."""
        served = self._served.get(name)
        return served.active.manifest if served else None

    def manifests(self) -> list[Manifest]:
        """Of all models that serve, by name."""
        return [served.active.manifest for _, served in sorted(self._served.items())]

    def loads(self) -> dict[tuple[str, int], Load]:
        """By model and release: how many requests waited, were shed, … so far; kept while the model is replaced."""
        return dict(self._loads)

    def swap(self, active: Active) -> None:
        """Let ``active`` answer from the next request on, in place of the model of its name."""
        name, release = active.manifest.workload, active.manifest.release
        with self._changing:
            self._set({**self._served, name: _Served(active, self._load_of(name, release))})

    def drop(self, name: str) -> None:
        """Let the model of this name, if there is one, answer no more."""
        with self._changing:
            self._set({other: served for other, served in self._served.items() if other != name})

    def serve_from(self, priority: float) -> None:
        """Shed requests of a lower priority at once, until told otherwise."""
        self._least = priority

    def predict(
        self, inputs: Tensors, model: str = "", timeout_s: float | None = None, priority: int = 0
    ) -> Prediction:
        """Answer a batch by the named model, or by the only one. A request of a higher priority goes first.

        Raises StateError without a model, NotFoundError, InputError on wrong tensors or where several models serve and
        none is named, ModelError if the model fails, OverloadError, and DeadlineError if it could not begin within
        ``timeout_s`` seconds.
        """
        served = self._find(model) if model else self._only or self._unnamed()  # once: a swap must not come between
        if priority < self._least:
            served.lane.load.shed += 1
            raise OverloadError("the device is hot or short of memory; it answers no requests of low priority now")
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return served.predict(inputs, deadline, priority)

    def _load_of(self, name: str, release: int) -> Load:
        """The counts of a release; they go on if it comes back."""
        serving = {(name, served.active.manifest.release) for name, served in self._served.items()}
        for gone in [key for key in self._loads if key not in serving][:-LOADS]:
            del self._loads[gone]
        return self._loads.setdefault((name, release), Load())

    def _set(self, served: "Mapping[str, _Served]") -> None:
        self._served = served
        self._only = next(iter(served.values())) if len(served) == 1 else None

    def _find(self, name: str) -> "_Served":
        try:
            return self._served[name]
        except KeyError:
            raise NotFoundError(f"model {name!r}: not here; this device serves {self._names() or 'none'}") from None

    def _unnamed(self) -> NoReturn:
        if names := self._names():
            raise InputError(f"model: name one of {names}")
        raise StateError("no model is installed yet")

    def _names(self) -> str:
        return ", ".join(map(repr, sorted(self._served)))


class _Served:
    """A model with its lane."""

    def __init__(self, active: Active, load: Load) -> None:
        self.active, self.lane = active, Lane(active.model, active.limits, load)
        self._examples: dict[object, int] = {}  # of requests that were found right, by their form

    def predict(self, inputs: Tensors, deadline: float | None, priority: int) -> Prediction:
        active = self.active
        form = tuple([(name, array.dtype, array.shape) for name, array in inputs.items()])
        examples = self._examples.get(form) or self._check(form, inputs)
        try:
            outputs = self.lane.run(inputs, examples, deadline, priority)
        except ModelError:
            active.failed()
            raise
        prediction_id = f"{getrandbits(ID_BITS):024x}"
        ids = (prediction_id,) if examples == 1 else example_ids(prediction_id, examples)
        active.observe(ids, inputs, outputs)
        return Prediction(active.manifest, prediction_id, ids, outputs)

    def _check(self, form: object, inputs: Tensors) -> int:
        examples = check(self.active.manifest.inputs, inputs)
        if len(self._examples) < FORMS:
            self._examples[form] = examples
        return examples


def example_ids(prediction_id: str, examples: int) -> tuple[str, ...]:
    """A single example has the prediction's id, example i of several has it with ".i" behind."""
    return (prediction_id,) if examples == 1 else tuple(f"{prediction_id}.{i}" for i in range(examples))


def check(specs: Sequence[TensorSpec], inputs: Tensors) -> int:
    """The number of examples. Raises InputError that names the tensor, what was expected and what was found."""
    expected = {spec.name for spec in specs}
    if unknown := inputs.keys() - expected:
        raise InputError(f"input {min(unknown)!r}: unknown; this model takes {', '.join(map(repr, sorted(expected)))}")
    for spec in specs:
        if spec.name not in inputs:
            raise InputError(f"input {spec.name!r}: missing; expected {_described(spec.dtype, spec.shape)}")
        _check_tensor(spec, inputs[spec.name])
    sizes = {inputs[spec.name].shape[0] for spec in specs}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(f"inputs: need the same number of examples, one at least; got {sorted(sizes)}")
    return int(sizes.pop())


def _check_tensor(spec: TensorSpec, array: NDArray[np.generic]) -> None:
    fits = len(array.shape) == len(spec.shape) and all(
        want in (ANY, found) for want, found in zip(spec.shape, array.shape, strict=True)
    )
    if array.dtype.name != spec.dtype or not fits:
        found = _described(array.dtype.name, array.shape)
        raise InputError(f"input {spec.name!r}: expected {_described(spec.dtype, spec.shape)}, got {found}")


def _described(dtype: str, shape: Sequence[int]) -> str:
    return f"{dtype} [{', '.join('*' if size == ANY else str(size) for size in shape)}]"
