"""Inputs of samples as bytes: exactly as the model saw them, or in half the bits where a device declares that.

>>> import numpy as np
>>> raw, encoding = lossy(np.array([1.5, -2.0], np.float32).tobytes(), "float32")
>>> len(raw), encoding
(4, 'float16')
>>> decoded(raw, encoding, TensorSpec("readings", "float32", (-1, 2)))
array([[ 1.5, -2. ]], dtype=float32)
"""

import numpy as np
from numpy.typing import NDArray

from skerry_shared.errors import InputError
from skerry_shared.release import TensorSpec

LOSSY = "float16"
WIDE = ("float32", "float64")  # what may travel as LOSSY
ENCODINGS = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), LOSSY, *WIDE)
PRECISION = 2.0**-11  # relative error of a value that float16 holds


def lossy(raw: bytes, encoding: str) -> tuple[bytes, str]:
    """An input in fewer bits and their encoding; as it came where it is no float, or float16 cannot hold a value of it.

    No value changes by more than ``PRECISION`` of itself: one that is too large, or too near to zero, keeps all exact.
    """
    if encoding not in WIDE:
        return raw, encoding
    values = np.frombuffer(raw, encoding)
    with np.errstate(over="ignore"):
        short = values.astype(LOSSY)
    held = np.isclose(short.astype(encoding), values, rtol=PRECISION, atol=0, equal_nan=True).all()
    return (short.tobytes(), LOSSY) if held else (raw, encoding)


def decoded(raw: bytes, encoding: str, spec: TensorSpec) -> NDArray[np.generic]:
    """A batch of one as the model takes it. Raises InputError if these bytes are no input of this specification."""
    if encoding != spec.dtype and not (encoding == LOSSY and spec.dtype in WIDE):
        raise InputError(f"input: encoded as {encoding[:20]!r}, which is no {spec.dtype}")
    try:
        values = np.frombuffer(raw, encoding).reshape(1, *spec.shape[1:])
    except ValueError as error:
        raise InputError(f"input: is no {encoding} {list(spec.shape[1:])}: {error}") from None
    return values.astype(spec.dtype, copy=False)
