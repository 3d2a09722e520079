"""What the world does to pictures: real corruptions, seeded. uint8, n × height × width in and out."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Pictures = NDArray[np.uint8]


def clear(pictures: Pictures) -> Pictures:
    """As they are."""
    return pictures


def smeared(pictures: Pictures) -> Pictures:
    """A lens out of focus and a noisy sensor: blur, then noise."""
    return _noisy(ndimage.gaussian_filter(pictures.astype(float), (0, 1.0, 1.0)), 20)


def dim(pictures: Pictures) -> Pictures:
    """A failing lamp: a third of the contrast, and noise."""
    return _noisy(pictures.astype(float) * 0.33 + 20, 12)


WEATHER: dict[str, Callable[[Pictures], Pictures]] = {"clear": clear, "smeared": smeared, "dim": dim}


def _noisy(pictures: NDArray[Any], deviation: float) -> Pictures:
    noise = np.random.default_rng(7).normal(0, deviation, pictures.shape)
    return np.clip(pictures + noise, 0, 255).round().astype(np.uint8)
