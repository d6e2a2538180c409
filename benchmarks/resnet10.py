"""ResNet-10 for images of 32x32, of any width: four stages of one basic block each, as ResNet-18 has two."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STAGES = (32, 64, 128, 256)
"""Channels at width 1: half of ResNet-18's."""


class _Block(nn.Module):
    """He et al., "Deep Residual Learning", arXiv:1512.03385, figure 2."""

    def __init__(self, ic: int, oc: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(ic, oc, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(oc),
            nn.ReLU(),
            nn.Conv2d(oc, oc, 3, padding=1, bias=False),
            nn.BatchNorm2d(oc),
        )
        self.shortcut = (
            nn.Identity()
            if ic == oc and stride == 1
            else nn.Sequential(nn.Conv2d(ic, oc, 1, stride=stride, bias=False), nn.BatchNorm2d(oc))
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet10(nn.Module):
    """[n, 1, 32, 32] -> [n, 10], with `width` times the channels of STAGES. Initialised from `seed`."""

    def __init__(self, width: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            channels = [max(1, round(width * count)) for count in STAGES]
            stem = [
                nn.Conv2d(1, channels[0], 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels[0]),
                nn.ReLU(),
            ]
            blocks = [
                _Block(ic, oc, 1 if ic == oc else 2)
                for ic, oc in zip([channels[0], *channels[:-1]], channels, strict=True)
            ]
            self.features = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1))
            self.classifier = nn.Linear(channels[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]
