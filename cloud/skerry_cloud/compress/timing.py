"""How long a model takes for one input on one thread, beside others: in turns, so that a busy machine troubles all."""

import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from skerry_cloud.adapters.models import Model
from skerry_cloud.compress.study import Machine

ROUNDS, CALLS = 20, 25


def in_turns(models: Sequence[Model], inputs: NDArray[Any], rounds: int = ROUNDS) -> list[float]:
    """Milliseconds of each model: the median call of a round, of the least disturbed round."""
    medians = [[_median(model, inputs) for model in models] for _ in range(rounds)]
    return np.min(medians, axis=0).tolist()  # type: ignore[no-any-return]


def machine() -> Machine:
    """This one."""
    return Machine(_cpu(), platform.machine(), f"onnxruntime {onnxruntime.__version__}")


def _median(model: Model, inputs: NDArray[Any]) -> float:
    times = []
    for call in range(-2, CALLS):  # the first ones warm the caches that the others left cold
        one = inputs[call % len(inputs)][None]
        start = time.perf_counter()
        model.answer(one)
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:])) * 1e3


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
