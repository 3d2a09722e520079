"""For workloads on small grey pictures: a residual network, and what to watch about a picture.

All of it takes pictures as ``grey`` gives them: float32 in 0..1, batch × height × width.
"""

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MONITORS = ("brightness", "contrast", "sharpness", "noise")


def grey(pictures: Tensor) -> Tensor:
    """uint8 pictures, batch × height × width, as float32 in 0..1."""
    return pictures.float() / 255


def watch(pictures: Tensor) -> Tensor:
    """``MONITORS`` of grey pictures, batch × 4, by slices and means only.

    Blur lowers sharpness, noise raises noise, poor light moves brightness and contrast: together they name the fault.
    """
    across = pictures[:, :, 1:] - pictures[:, :, :-1]
    down = pictures[:, 1:, :] - pictures[:, :-1, :]
    # Differences along both axes cancel plane shades and straight edges, and leave what varies from pixel to pixel.
    grain = across[:, 1:, :] - across[:, :-1, :]
    return torch.stack(
        [
            pictures.mean((1, 2)),
            (pictures - pictures.mean((1, 2), keepdim=True)).square().mean((1, 2)).sqrt(),
            across.abs().mean((1, 2)) + down.abs().mean((1, 2)),
            grain.abs().mean((1, 2)),
        ],
        dim=1,
    )


def spoiled(pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """Grey pictures (n × height × width) in poor light, noisy, out of focus: what happens to cameras."""
    values = pictures.astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 20, pictures.shape)
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = pictures.shape[1:]
    blurred = np.mean([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
    return {name: made.clip(0, 255).astype(np.uint8) for name, made in
            {"dim": values * 0.6, "noise": values + noise, "blur": blurred}.items()}  # fmt: skip


def scaled(widths: tuple[int, ...], width: float) -> tuple[int, ...]:
    """The widths of a student: 8 at least, and multiples of 4, which keep kernels of several channels at once busy."""
    return tuple(max(8, round(each * width / 4) * 4) for each in widths)


class ResidualCnn(nn.Module):
    """A stem and a residual block for each further width: 73,000 parameters by default; for 8 to 64 pixels."""

    def __init__(self, labels: int, widths: tuple[int, ...] = (16, 32, 64), *, pool: bool = True) -> None:
        """``pool`` halves the picture behind the stem: right from about 16 pixels up. Each block but the first does."""
        super().__init__()
        stem = _convolution(1, widths[0], 1)
        self.stem = nn.Sequential(stem, nn.ReLU(), nn.MaxPool2d(2) if pool else nn.Identity())
        sizes = itertools.pairwise(widths)
        self.blocks = nn.Sequential(*(Residual(*size, 2 if place else 1) for place, size in enumerate(sizes)))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], labels))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (batch × labels) of normalised pictures, batch × height × width."""
        planes = pictures.unsqueeze(1).contiguous(memory_format=torch.channels_last)  # a fifth quicker to train
        logits: Tensor = self.head(self.blocks(self.stem(planes)))
        return logits


class Residual(nn.Module):
    """relu(f(x) + shortcut(x)) with two convolutions in f; He et al., 2016."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(inputs, outputs, stride), nn.ReLU(), _convolution(outputs, outputs, 1))
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, planes: Tensor) -> Tensor:
        """Batch × outputs × height / stride × width / stride."""
        return torch.relu(self.body(planes) + self.shortcut(planes))


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs))
