"""Compiled networks and layers: the hardware runs their programs as the simulator does, in as many cycles."""

from __future__ import annotations

from pathlib import Path

import fxpress
import numpy as np
import pytest
import torch
from fxpress.backends.systolic.architecture import Architecture
from fxpress.backends.systolic.compiler import ArrayStage, lower
from fxpress.cli.objects import find_object
from fxpress.target import Target
from hardware import compare
from torch import Tensor, nn
from torch.nn import functional as F

NETWORKS = Path(__file__).parents[4] / "benchmarks" / "tiny_models.py"
SMALL = "rows=4,columns=4,dram_bytes=4,activation_kib=16,weight_kib=16,accumulator_kib=16,parameter_kib=8"
EDGE = "preset=edge"


class Attention(nn.Module):
    """Two heads of width 4: products of activations, whose keys are turned on their way in."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def run_on_hardware(model: nn.Module, options: str, *shape: int) -> list[ArrayStage]:
    """Quantise and compile a model of random weights, run its programs on random integers; the array's stages."""
    torch.manual_seed(0)
    inputs = [(torch.randn(1, *shape),) for _ in range(3)]
    target = Target.parse(f"systolic{{{options}}}")
    program = fxpress.quantize(model.eval(), args=inputs[0], calibration=inputs, target=target)
    stages = lower(program, Architecture.parse(options)).stages
    chance = np.random.default_rng(0)
    on_array = [stage for stage in stages if isinstance(stage, ArrayStage)]
    for stage in on_array:
        values = {
            value.name: chance.integers(-128, 128, value.layout.shape).astype(np.int8) for value in stage.program.inputs
        }
        compare(stage.program, values)
    return on_array


def test_lenet() -> None:
    stages = run_on_hardware(find_object("network", f"{NETWORKS}:LeNet")(), SMALL, 1, 28, 28)
    assert len(stages) == 1


def test_attention() -> None:
    stages = run_on_hardware(Attention(), SMALL, 5, 8)
    assert any("transpose" in stage.program.disassemble() for stage in stages)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "shape"), [("ResNet8", (3, 32, 32)), ("DsCnn", (1, 49, 10))])
def test_networks_of_mlperf_tiny(name: str, shape: tuple[int, ...]) -> None:
    assert len(run_on_hardware(find_object("network", f"{NETWORKS}:{name}")(), EDGE, *shape)) == 1


LAYERS = {
    "mobilenet-v2 expansion": (nn.Conv2d(24, 144, 1), (24, 28, 28)),
    "mobilenet-v2 depthwise": (nn.Conv2d(144, 144, 3, stride=2, padding=1, groups=144), (144, 28, 28)),
    "mobilenet-v2 projection": (nn.Conv2d(144, 32, 1), (144, 14, 14)),
    "resnet-50 first": (nn.Conv2d(3, 64, 7, stride=2, padding=3), (3, 112, 112)),
    "resnet-50 3x3": (nn.Conv2d(128, 128, 3, padding=1), (128, 14, 14)),
    "resnet-50 downsample": (nn.Conv2d(256, 512, 1, stride=2), (256, 14, 14)),
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_of_large_networks(layer: str) -> None:
    """At the channels of those networks and at a part of their pixels."""
    module, shape = LAYERS[layer]
    run_on_hardware(nn.Sequential(module, nn.ReLU()), EDGE, *shape)
