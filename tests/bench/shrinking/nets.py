"""The two networks of the benchmark, as workloads on Fashion-MNIST."""

from torch import Tensor, nn

from skerry_cloud.workloads import vision
from skerry_cloud.workloads.fashion import Fashion


class _Bench(Fashion):
    train_size = 0


class Residual(_Bench):
    """0.68 million parameters, 21 million multiply-adds."""

    name = "residual"
    epochs = 5

    def student(self, width: float) -> nn.Module:
        return vision.ResidualCnn(len(self.labels), vision.scaled((24, 48, 96, 192), width))


class Depthwise(_Bench):
    """26,000 parameters in separable convolutions, which suffer most from coarse integers."""

    name = "depthwise"
    epochs = 5

    def student(self, width: float) -> nn.Module:
        return Separable(len(self.labels), vision.scaled((16, 32, 64, 128), width))


class QuickResidual(Residual):
    """To see whether all runs."""

    train_size = 2000


class QuickDepthwise(Depthwise):
    """To see whether all runs."""

    train_size = 2000


class Separable(nn.Module):
    """MobileNet in small: a stem, then depthwise and pointwise convolutions. Howard et al., 2017."""

    def __init__(self, labels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        stem, *blocks = widths
        layers: list[nn.Module] = [_convolution(1, stem, 3, 2, 1)]
        for place, outputs in enumerate(blocks):
            inputs = widths[place]
            layers += [
                _convolution(inputs, inputs, 3, 2 if place else 1, inputs),
                _convolution(inputs, outputs, 1, 1, 1),
            ]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], labels))

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.layers(pictures.unsqueeze(1))
        return logits


def _convolution(inputs: int, outputs: int, size: int, stride: int, groups: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
