"""``privacy.treat`` as tensor operations, so that it can be the beginning of a model's graph."""

import numpy as np
import torch
from torch import Tensor

from skerry_shared import privacy
from skerry_shared.release import Field

WIDE = (torch.int32, torch.int64, torch.float64)  # what float32 cannot hold
NARROW = (torch.bool, torch.int16, torch.uint16)  # what ONNX Runtime cannot choose among


def treat(inputs: Tensor, fields: tuple[Field, ...]) -> Tensor:
    """Raw inputs as samples of devices are, with zero for a pseudonym: to the bit what ``privacy.treat`` gives."""
    if any(field.action == privacy.GENERALISE for field in fields):
        rounded = torch.tensor([field.action == privacy.GENERALISE for field in fields])
        inputs = _where(rounded, _generalised(inputs, fields), inputs)
    if hidden := privacy.hidden(fields):
        shown = [field.value if field.action == privacy.MASK else 0.0 for field in fields]
        values = torch.tensor(shown, dtype=inputs.dtype)
        inputs = _where(torch.tensor([field.name in hidden for field in fields]), values, inputs)
    return inputs


def _where(mask: Tensor, values: Tensor, others: Tensor) -> Tensor:
    kind = torch.int32 if others.dtype in NARROW else others.dtype
    return torch.where(mask, values.to(kind), others.to(kind)).to(others.dtype)


def _generalised(inputs: Tensor, fields: tuple[Field, ...]) -> Tensor:
    kind = torch.float64 if inputs.dtype in WIDE else torch.float32
    ranges = [privacy.range_of(field) for field in fields]
    low, high = (torch.tensor(ends, dtype=kind) for ends in zip(*ranges, strict=True))
    step = torch.tensor([field.step or 1.0 for field in fields], dtype=kind)
    values = inputs.to(kind)
    values = torch.where(values < low, low, values)
    values = torch.where(values > high, high, values)
    stepped = torch.tensor([field.step > 0 for field in fields])
    values = torch.where(stepped, torch.round(values / step) * step, values)
    if not inputs.dtype.is_floating_point:
        values = values.clip(*privacy.limits(np.dtype(str(inputs.dtype).removeprefix("torch."))))
    return values.to(inputs.dtype)
