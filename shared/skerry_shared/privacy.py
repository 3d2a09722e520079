"""What may be kept of a model's input: a policy for each field of it, signed with the bundle. Pure.

A field is one value of the input's last axis, such as a column of a table, or all of the input, such as a picture. The
device applies its release's policy before anything is stored or sent, the cloud applies it to what it learns from.

    keep         the value
    drop         zero in its place
    mask         a constant in its place
    generalise   the value, clipped to a range and rounded to a step
    hash         a pseudonym, equal for equal values: HMAC-SHA-256 (RFC 2104) under a key that only devices have
"""

import hmac
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry_shared.release import Field, TensorSpec

KEEP, DROP, MASK, GENERALISE, HASH = ACTIONS = ("keep", "drop", "mask", "generalise", "hash")
KEY_BYTES = 32
BITS = {"int32": 31, "uint32": 32, "int64": 63, "uint64": 64, "float32": 24, "float64": 53}  # of a pseudonym, exactly
EXACT = 1 << 53  # up to it float64 has every whole number
PLAIN = 1 << 17  # a float's pseudonym is above: where samples may lose digits, what float16 cannot hold stays exact
TEXT = 32  # hexadecimal digits of a pseudonym of a text

Array = NDArray[Any]


def keep(name: str) -> Field:
    """As it is."""
    return Field(name, KEEP)


def drop(name: str) -> Field:
    """Never leaves the device: zero in its place."""
    return Field(name, DROP)


def mask(name: str, value: float) -> Field:
    """Never leaves the device: ``value`` in its place."""
    return Field(name, MASK, value=value)


def generalise(name: str, step: float = 0.0, low: float | None = None, high: float | None = None) -> Field:
    """Clipped to ``low`` … ``high``, then rounded to the nearest multiple of ``step`` (half to even).

    Computed in float64, so that 64-bit whole numbers need a range within ±2⁵³.
    """
    return Field(name, GENERALISE, step=step, low=low, high=high)


def pseudonym(name: str) -> Field:
    """A number that is equal for equal values, and tells nothing to who has not the device's key."""
    return Field(name, HASH)


def fault(fields: Sequence[Field], spec: TensorSpec) -> str:
    """Why this is no policy for such an input, naming the field and the fix; empty if it is one, or none."""
    width = spec.shape[-1] if len(spec.shape) > 1 else 1
    if len(fields) not in (0, 1, width):
        return f"fields: {len(fields)} of them; input {spec.name!r} has {width} values in a row: one for each, or one"
    names = [field.name for field in fields]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        return f"field {twice!r}: is there twice; say once what is kept of it"
    faults = ((field.name, _fault(field, np.dtype(spec.dtype))) for field in fields)
    return next((f"field {name!r}: {why}" for name, why in faults if why), "")


def _fault(field: Field, dtype: np.dtype[Any]) -> str:
    numbers = [number for number in (field.value, field.step, field.low, field.high) if number is not None]
    if field.action not in ACTIONS:
        return f"action {field.action!r} is unknown; known: {', '.join(ACTIONS)}"
    if not all(map(math.isfinite, numbers)) or (dtype.kind in "iu" and any(number % 1 for number in numbers)):
        return f"{field.action} by {numbers}: {dtype} needs {'whole' if dtype.kind in 'iu' else 'finite'} numbers"
    if field.action == HASH and dtype.name not in BITS:
        return f"{dtype} has no room for a pseudonym; choose drop or mask, or declare one of {', '.join(BITS)}"
    if field.action == MASK and not limits(dtype)[0] <= field.value <= limits(dtype)[1]:
        return f"mask: {field.value:g} is no {dtype}"
    return _generalise_fault(field, dtype) if field.action == GENERALISE else ""


def _generalise_fault(field: Field, dtype: np.dtype[Any]) -> str:
    low, high = range_of(field)
    if dtype.kind not in "iuf":
        return f"generalise: {dtype} is no number; choose keep or drop"
    if field.step < 0 or low > high or (not field.step and field.low is field.high is None):
        return f"generalise: step {field.step:g}, from {low:g} to {high:g}; needs a step above 0, or a range, or both"
    if dtype.name in ("int64", "uint64") and max(-low if dtype.kind == "i" else 0, high) + field.step > EXACT:
        return f"generalise: from {low:g} to {high:g}; {dtype} needs low and high such that no value is beyond ±2⁵³"
    return ""


def acts(fields: Sequence[Field]) -> bool:
    """Is anything not kept as it is?"""
    return any(field.action != KEEP for field in fields)


def hidden(fields: Sequence[Field]) -> tuple[str, ...]:
    """Names of those whose value nobody learns from: dropped, masked or hashed."""
    return tuple(field.name for field in fields if field.action in (DROP, MASK, HASH))


def told(field: Field) -> str:
    """The policy of a field, for people."""
    low, high = range_of(field)
    limited = [f"{name} {end:g}" for name, end in (("from", low), ("to", high)) if math.isfinite(end)]
    stepped = [f"in steps of {field.step:g}"] if field.step else []
    details = {MASK: [f"by {field.value:g}"], GENERALISE: limited + stepped}
    return " ".join([field.action, *details.get(field.action, [])])


def workload_key(key: bytes, workload: str) -> bytes:
    """The key of one workload's pseudonyms: those of two workloads tell nothing about each other."""
    return hmac.digest(key, f"skerry/pseudonym/{workload}".encode(), "sha256")


def treat(inputs: Array, fields: Sequence[Field], key: bytes | None = None) -> Array:
    """Raw inputs (first dimension: examples) as they may be kept; the same array where all of it may.

    Shape and dtype stay. Without a ``key`` what would be hashed is dropped: so the cloud treats what it learns from.
    Then treating twice is treating once.
    """
    if not acts(fields):
        return inputs
    treated = inputs.copy()
    values = treated if len(fields) > 1 else treated[..., np.newaxis]
    for place, field in enumerate(fields):
        values[..., place] = _TREAT[field.action](values[..., place], field, key)
    return treated


def pseudonym_of(text: str, name: str, key: bytes) -> str:
    """What stands for a text, such as a label: 128 bits in hexadecimal."""
    return hmac.digest(key, f"{name}\0{text}".encode(), "sha256").hex()[:TEXT]


def _keep(values: Array, _: Field, __: bytes | None) -> Array:
    return values


def _drop(values: Array, _: Field, __: bytes | None) -> Array:
    return np.zeros_like(values)


def _mask(values: Array, field: Field, _: bytes | None) -> Array:
    return np.full_like(values, field.value)


def _generalise(values: Array, field: Field, _: bytes | None) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):  # infinities and what is none stay what they are
        found: Array = np.clip(values.astype(np.result_type(values.dtype, np.float32)), *range_of(field))
        found = np.round(found / field.step) * field.step if field.step else found
        found = np.clip(found, *limits(values.dtype)) if values.dtype.kind in "iu" else found
        return found.astype(values.dtype)


def _hash(values: Array, field: Field, key: bytes | None) -> Array:
    if key is None:
        return np.zeros_like(values)
    least = PLAIN if values.dtype.kind == "f" else 0
    count, name = (1 << BITS[values.dtype.name]) - least, field.name.encode() + b"\0"
    values = np.where(np.isnan(values), values.dtype.type(np.nan), values) if values.dtype.kind == "f" else values
    distinct, places = np.unique(values + values.dtype.type(0), return_inverse=True)  # -0.0 is 0.0
    digests = (hmac.digest(key, name + value.tobytes(), "sha256") for value in distinct)
    numbers = [least + (int.from_bytes(digest[:8], "big") * count >> 64) for digest in digests]
    found: Array = np.array(numbers, np.uint64).astype(values.dtype)[places].reshape(values.shape)
    return found


_TREAT: dict[str, Callable[[Array, Field, bytes | None], Array]] = {
    KEEP: _keep, DROP: _drop, MASK: _mask, GENERALISE: _generalise, HASH: _hash,
}  # fmt: skip


def range_of(field: Field) -> tuple[float, float]:
    """What a generalised value is clipped to."""
    return -math.inf if field.low is None else field.low, math.inf if field.high is None else field.high


def limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The least and the greatest floating-point number that a dtype can hold."""
    if dtype.kind not in "iuf":
        return 0.0, 1.0
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    high = float(info.max)
    return float(info.min), math.nextafter(high, 0.0) if high > info.max else high
