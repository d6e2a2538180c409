"""Small classifiers of handwritten digits, trained here: packaged ones may have seen the digits they are judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from onnx_files import cache_directory
from samples import digits
from tiny_models import LeNet
from torch import Tensor, nn

EPOCHS = 8
BATCH = 100


class _Inverted(nn.Module):
    """A block of MobileNetV2: wider, depthwise, narrower again, with a shortcut where shapes allow."""

    def __init__(self, ic: int, oc: int, stride: int) -> None:
        super().__init__()
        width = 4 * ic
        self.body = nn.Sequential(
            nn.Conv2d(ic, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, oc, 1, bias=False),
            nn.BatchNorm2d(oc),
        )
        self.shortcut = ic == oc and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y if self.shortcut else y


class SmallMobileNet(nn.Module):
    """MobileNetV2 in small: [n, 1, 28, 28] -> [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            _Inverted(8, 8, 1),
            _Inverted(8, 16, 2),
            _Inverted(16, 16, 1),
            _Inverted(16, 24, 2),
            _Inverted(24, 24, 1),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))  # type: ignore[no-any-return]


def _convolution(ic: int, oc: int) -> list[nn.Module]:
    return [nn.Conv2d(ic, oc, 3, padding=1, bias=False), nn.BatchNorm2d(oc), nn.ReLU()]


class SmallVgg(nn.Module):
    """VGG-11 in small, half of its parameters in a hidden layer: [n, 1, 28, 28] -> [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = _convolution(1, 12), _convolution(12, 24), _convolution(24, 48) + _convolution(48, 48)
        self.features = nn.Sequential(*first, nn.MaxPool2d(2), *second, nn.MaxPool2d(2), *third, nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(432, 96), nn.ReLU(), nn.Linear(96, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))  # type: ignore[no-any-return]


NETS = {"lenet": LeNet, "mobilenet": SmallMobileNet, "vgg": SmallVgg}


@dataclass(frozen=True)
class Trained:
    """A trained classifier in eval mode, the digits that it learnt from and those that it has not seen."""

    module: nn.Module
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def trained(net: str, folds: int, seeds: int) -> Iterator[Trained]:
    """One of NETS for each fold and seed. Folds are disjoint fifths of the digits; each leaves one of them out."""
    images, labels = digits()
    parts = np.array_split(np.arange(len(images)), 5)
    for fold in range(folds):
        left_out = torch.zeros(len(images), dtype=torch.bool)
        left_out[torch.from_numpy(parts[fold])] = True
        for seed in range(seeds):
            module = _kept(net, images[~left_out], labels[~left_out], fold, seed)
            yield Trained(module, images[~left_out], labels[~left_out], images[left_out], labels[left_out])


def _kept(net: str, images: Tensor, labels: Tensor, fold: int, seed: int) -> nn.Module:
    """The classifier from the cache directory, or trained now and put there."""
    torch.manual_seed(seed)
    module = NETS[net]()
    recipe = hashlib.blake2b(f"{module}{EPOCHS}{BATCH}{torch.__version__}".encode(), digest_size=6).hexdigest()
    path = cache_directory() / f"{net}-{recipe}-fold{fold}-seed{seed}.pt"
    if path.exists():
        module.load_state_dict(torch.load(path))
        return module.eval().requires_grad_(False)
    train(module, images, labels)
    unfinished = path.with_suffix(".unfinished")
    torch.save(module.state_dict(), unfinished)
    unfinished.rename(path)
    return module


def train(module: nn.Module, images: Tensor, labels: Tensor, epochs: int = EPOCHS, rate: float = 5e-3) -> None:
    """Trains in place with Adam, whose rate rises and falls once, and leaves the module in eval mode."""
    optimizer = torch.optim.Adam(module.parameters(), rate)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    module.train().requires_grad_(True)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(module(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    module.eval().requires_grad_(False)
