"""The small networks of the `tiny` suite, where the cost of a call matters more than the cost of the arithmetic."""

from __future__ import annotations

from torch import Tensor, nn


class LeNet(nn.Module):
    """LeNet-5 with rectifiers and maximum pooling: [n, 1, 28, 28] -> [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


class GruClassifier(nn.Module):
    """Two GRU layers of width 128 over a sequence, a label from the last step: [n, steps, 40] -> [n, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(40, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, 12)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.gru(x)
        return self.head(steps[:, -1])  # type: ignore[no-any-return]


def _convolution(ic: int, oc: int, kernel: int | tuple[int, int], **options: object) -> nn.Sequential:
    """A convolution without bias, a batch norm and a rectifier."""
    convolution = nn.Conv2d(ic, oc, kernel, bias=False, **options)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.BatchNorm2d(oc), nn.ReLU())


class DsCnn(nn.Module):
    """The depthwise-separable keyword spotter of MLPerf Tiny: [n, 1, 49, 10] -> [n, 12]."""

    def __init__(self) -> None:
        super().__init__()
        layers = [_convolution(1, 64, (10, 4), stride=2, padding=(5, 1))]
        for _ in range(4):
            layers += [_convolution(64, 64, 3, padding=1, groups=64), _convolution(64, 64, 1)]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))  # type: ignore[no-any-return]


class _Residual(nn.Module):
    def __init__(self, ic: int, oc: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(ic, oc, 3, stride=stride, padding=1),
            nn.Conv2d(oc, oc, 3, padding=1, bias=False),
            nn.BatchNorm2d(oc),
        )
        same = ic == oc and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(ic, oc, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.body(x) + self.shortcut(x))


class ResNet8(nn.Module):
    """The image classifier of MLPerf Tiny: [n, 3, 32, 32] -> [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _convolution(3, 16, 3, padding=1),
            _Residual(16, 16, 1),
            _Residual(16, 32, 2),
            _Residual(32, 64, 2),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))  # type: ignore[no-any-return]


def mlp() -> nn.Module:
    """Three linear layers of width 64: [n, 64] -> [n, 64]."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
