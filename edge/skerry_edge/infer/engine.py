"""The model that serves now. Swapping it replaces one reference: requests in flight finish on the model they had.

A request is checked against the manifest before the model sees it, so that a wrong tensor is the caller's error, by
name, and never the model's.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry_shared.errors import DeadlineError, InputError, ModelError, StateError
from skerry_shared.ports.runtime import Model, Tensors
from skerry_shared.release import ANY, Manifest, TensorSpec

Observe = Callable[[Sequence[str], Tensors, Tensors], None]  # (prediction ids, inputs, outputs); quick, thread-safe


@dataclass(frozen=True)
class Active:
    """A model that serves, what is known about it, and who watches its answers."""

    manifest: Manifest
    model: Model
    observe: Observe
    failed: Callable[[], None] = lambda: None  # the model could not answer a request that fits its manifest


@dataclass(frozen=True)
class Prediction:
    """Answers to one request. Example i of several is known as ``ids[i]``, which late labels refer to."""

    manifest: Manifest  # of the model that answered
    prediction_id: str
    ids: tuple[str, ...]
    outputs: Tensors

    @property
    def release(self) -> int:
        """The release that answered."""
        return self.manifest.release


class Engine:
    """Answers requests with whatever model was swapped in last; any number of threads."""

    def __init__(self) -> None:
        self._active: Active | None = None

    @property
    def manifest(self) -> Manifest | None:
        """Of the model that serves now; None before there is one."""
        active = self._active
        return active.manifest if active else None

    def manifests(self) -> list[Manifest]:
        """Of all models that serve."""
        manifest = self.manifest
        return [manifest] if manifest else []

    def swap(self, active: Active | None) -> None:
        """Let ``active`` serve from the next request on; None: nothing serves."""
        self._active = active

    def predict(
        self,
        inputs: Tensors,
        model: str = "",  # noqa: ARG002
        timeout_s: float | None = None,
        priority: int = 0,  # noqa: ARG002 - one model, no queue
    ) -> Prediction:
        """Answer a batch, unless there is no time left for it.

        Raises StateError without a model, InputError on wrong tensors, DeadlineError, ModelError if the model fails.
        """
        active = self._active  # read once: a swap must not come between the parts of one request
        if active is None:
            raise StateError("no model is installed yet")
        examples = check(active.manifest.inputs, inputs)
        if timeout_s is not None and timeout_s <= 0:
            raise DeadlineError("the deadline passed before the model could start")
        outputs = _run(active, inputs)
        prediction_id = secrets.token_hex(12)
        ids = example_ids(prediction_id, examples)
        active.observe(ids, inputs, outputs)
        return Prediction(active.manifest, prediction_id, ids, outputs)


def _run(active: Active, inputs: Tensors) -> Tensors:
    try:
        return active.model.run(inputs)
    except ModelError:
        active.failed()
        raise


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
