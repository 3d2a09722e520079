"""A workload: one problem that Skerry learns, as one small class. Subclass ``Workload`` and you have said all of it.

Everything a device must do with its raw input stands in two methods that become part of the exported graph: ``prepare``
(raw input to what the network takes) and ``watch`` (what to monitor about the input). So training and serving cannot
differ, and a device needs no Python of yours. ``digits.py`` beside this file is a complete example.

Who imports models (`skerry model import`) needs neither ``model`` nor ``prepare``: what a file does stands in the file.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skerry_cloud.examples import Examples
from skerry_cloud.workloads.treat import treat
from skerry_shared import privacy
from skerry_shared.errors import ConfigError, InputError
from skerry_shared.release import ANY, Field, TensorSpec

RESIDUAL = "residual"  # mode of a monitor: watch what the value before does not foretell


class Workload(ABC):
    """What is to be learned, from what, how well, and whose it is. See the module for the rules."""

    name: ClassVar[str]
    owner: ClassVar[str]  # whom to ask; stands in every bundle
    labels: ClassVar[tuple[str, ...]]  # in the order of the network's logits
    input: ClassVar[TensorSpec]  # the raw input, its first dimension ANY
    monitors: ClassVar[tuple[str, ...]] = ("mean", "spread")  # names of what ``watch`` returns; () for nothing

    columns: ClassVar[tuple[str, ...]] = ()  # names of the values of the input's last axis; (): the input is one field
    policy: ClassVar[tuple[Field, ...]] = ()  # what may be kept of each field, see ``privacy``; (): everything
    returned: bool = False  # is some of what is learned from samples of devices?

    modes: ClassVar[Mapping[str, str]] = {}  # of monitors whose values follow the ones before: "residual"

    max_drop: ClassVar[float] = 1.0  # points of accuracy that compression may cost
    max_slice_drop: ClassVar[float] = 5.0  # and in each slice, or under a corruption more than the float model loses
    max_loss: ClassVar[float] = 1.0  # points on old data that a retrained model may lose for a gain on recent data
    epochs: ClassVar[int] = 4
    batch_size: ClassVar[int] = 64
    learning_rate: ClassVar[float] = 0.01  # the peak of the one-cycle schedule
    views: ClassVar[int] = 1  # how many there are: see ``view``
    train_size: ClassVar[int] = 0  # how many examples an epoch takes, 0 for all

    @abstractmethod
    def examples(self) -> Examples:
        """The data to learn from. Raises NotFoundError, with what to install, if they are not on this machine."""

    def model(self) -> nn.Module:
        """A fresh network: what ``prepare`` returns in, logits (batch × labels) out.

        Raises ConfigError where there is none: then models are imported, and none can be trained.
        """
        raise ConfigError(f"workload {self.name}: has no model() to train; write one, or use `skerry model import`")

    def student(self, width: float) -> nn.Module | None:  # noqa: ARG002
        """A fresh network, ``width`` times as wide as ``model``'s, for distillation; None: there is none to build."""
        return None

    def teacher(self, inputs: NDArray[Any]) -> NDArray[np.float32] | None:  # noqa: ARG002
        """Probabilities (n × labels) of a better model, too slow for devices, for raw inputs; None: there is none.

        By the retraining policy it labels samples that nobody else did (``retrain.pseudo_labels``).
        """
        return None

    def prepare(self, inputs: Tensor) -> Tensor:
        """Raw input to the float32 that the network takes. Tensor operations only: this is exported with the model."""
        return inputs.float()

    def fields(self) -> tuple[Field, ...]:
        """The policy in the order of the input's values."""
        policies = {field.name: field for field in self.policy}
        return tuple(policies[name] for name in _names(type(self))) if policies else ()

    def sees(self, inputs: Tensor) -> Tensor:
        """What of raw inputs the graph looks at: all, until samples of devices are learned from.

        Then what these do not show is shown of no input, so that a model learns nothing from what is missing, and
        answers on a device as it did here.
        """
        return treat(inputs, self.fields()) if self.returned else inputs

    def takes(self, inputs: Tensor) -> Tensor:
        """Raw input to what the network takes."""
        return self.prepare(self.sees(inputs))

    def view(self, inputs: Tensor, number: int) -> Tensor:  # noqa: ARG002
        """The same raw inputs as they might have been as well, such as mirrored; for training. 0: as they are."""
        return inputs

    def seen(self, inputs: NDArray[Any], number: int) -> NDArray[Any]:
        """``view`` of an array."""
        seen: NDArray[Any] = self.view(torch.tensor(inputs), number).numpy()
        return seen

    def watch(self, inputs: Tensor) -> Tensor:
        """What to monitor about raw inputs, in the order of ``monitors``: float32, batch × M. Exported as well."""
        values = inputs.float().flatten(1)
        return torch.stack([values.mean(1), values.std(1)], dim=1)[:, : len(self.monitors)]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What training minimises: a scalar. Cross entropy."""
        return nn.functional.cross_entropy(logits, labels)

    def metrics(self, scores: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
        """How good answers are, from probabilities (n × labels) and the truth; must hold ``accuracy``."""
        right = scores.argmax(axis=1) == labels
        recalls = [right[labels == label].mean() for label in np.unique(labels)]
        return {"accuracy": float(right.mean()), "macro recall": float(np.mean(recalls))}

    def slices(self, examples: Examples) -> Mapping[str, NDArray[np.bool_]]:  # noqa: ARG002
        """Parts of the data, by name, in which a variant must not lose more than ``max_slice_drop``: masks of rows."""
        return {}

    def corruptions(self, inputs: NDArray[Any]) -> Mapping[str, NDArray[Any]]:  # noqa: ARG002
        """Raw inputs as the world may spoil them, by the corruption's name; the same inputs give the same."""
        return {}

    def validate(self, examples: Examples) -> None:
        """Raises InputError, naming the field, unless the examples are what this workload declares."""
        inputs, labels, shape = examples.inputs, examples.labels, self.input.shape[1:]
        if inputs.dtype != np.dtype(self.input.dtype):
            raise InputError(f"{self.name}: inputs: dtype is {inputs.dtype}, expected {self.input.dtype}")
        if inputs.shape[1:] != shape:
            raise InputError(f"{self.name}: inputs: shape is {inputs.shape[1:]}, expected {shape} for each example")
        if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
            raise InputError(f"{self.name}: inputs: not every value is a finite number")
        if labels.dtype != np.int64 or labels.shape != inputs.shape[:1]:
            raise InputError(f"{self.name}: labels: got {labels.dtype} {labels.shape}, expected int64 ({len(inputs)},)")
        outside = labels[(labels < 0) | (labels >= len(self.labels))]
        if len(outside):
            raise InputError(f"{self.name}: labels: {outside[0]} is not one of the {len(self.labels)} labels' places")


def check(cls: type[Workload]) -> None:
    """Raises ConfigError, naming the attribute, unless the class declares all that a workload must."""
    types: Mapping[str, type] = {"name": str, "owner": str, "labels": tuple, "input": TensorSpec, "monitors": tuple}
    for attribute, kind in types.items():
        value = getattr(cls, attribute, None)
        if not isinstance(value, kind) or not (value or attribute == "monitors"):
            raise ConfigError(
                f"workload {cls.__name__}: {attribute} must be a {kind.__name__} with content, got {value!r}"
            )
    if cls.input.shape[:1] != (ANY,) or ANY in cls.input.shape[1:]:
        raise ConfigError(
            f"workload {cls.__name__}: input: only the first dimension may be free, got {cls.input.shape}"
        )
    for name, mode in cls.modes.items():
        if name not in cls.monitors or mode != RESIDUAL:
            raise ConfigError(
                f"workload {cls.__name__}: modes: {name!r}: {mode!r}; a monitor may have {RESIDUAL!r} only, and there "
                f"are {', '.join(cls.monitors)}"
            )
    _check_policy(cls)
    if len(cls.labels) < 2:
        raise ConfigError(f"workload {cls.__name__}: labels: at least two are needed, got {cls.labels!r}")
    if cls.__abstractmethods__:
        raise ConfigError(f"workload {cls.__name__}: missing {', '.join(sorted(cls.__abstractmethods__))}")


def _names(cls: type[Workload]) -> tuple[str, ...]:
    """Of the input's fields."""
    return cls.columns or (cls.input.name,)


def _check_policy(cls: type[Workload]) -> None:
    names, told = _names(cls), [field.name for field in cls.policy]
    width = cls.input.shape[-1] if len(cls.input.shape) > 1 else 1
    if cls.columns and (len(names) != width or len(set(names)) < width):
        raise ConfigError(
            f"workload {cls.__name__}: columns: {len(names)} names; the input's last axis has {width} values, name each"
        )
    if unknown := [name for name in told if name not in names]:
        raise ConfigError(
            f"workload {cls.__name__}: policy: field {unknown[0]!r} is unknown; columns has {', '.join(names)}"
        )
    if told and (missing := [name for name in names if name not in told]):
        raise ConfigError(
            f"workload {cls.__name__}: policy: nothing is said of field {missing[0]!r}; add keep({missing[0]!r}) if it "
            "may leave the device, or drop, mask, generalise or pseudonym"
        )
    if why := privacy.fault(cls.policy, cls.input):
        raise ConfigError(f"workload {cls.__name__}: policy: {why}")
