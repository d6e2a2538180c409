"""Weights that are zero stay zero: through every algorithm of quantisation, in every width, and through training."""

from __future__ import annotations

import functools
from pathlib import Path

import fxpress
import pytest
import torch
from fxpress.ops.quantized import expand_weight
from fxpress.pass_manager import PassManager
from fxpress.passes.pruning.weight_layers import find_layers
from fxpress.passes.quantization import trainable
from fxpress.passes.quantization.algorithms import ALGORITHMS
from fxpress.passes.quantization.calibration import Calibration
from fxpress.passes.quantization.planning import make_plan
from fxpress.passes.quantization.scheme import QuantConfig
from fxpress.target import Target
from torch import Tensor, nn

SCALES = torch.logspace(-1, 1.5, 32)
ROWS = [torch.randn(40, 32) @ torch.randn(32, 32) * SCALES for _ in range(4)]
IMAGES = [torch.randn(2, 3, 8, 8) for _ in range(4)]


@functools.cache
def sparse(kind: str) -> fxpress.Program:
    """A fused float Program whose weights are zero in half of their places."""
    torch.manual_seed(0)
    if kind == "conv":
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )  # fmt: skip
        model[1].running_var.uniform_(0.1, 2)
        data = IMAGES
    else:
        model = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 8))
        data = ROWS
    program = fxpress.prune(model.eval(), "2:4", args=(data[0],))
    return PassManager("default").run(program)


def masks(program: fxpress.Program) -> dict[str, Tensor]:
    found = {}
    for layer in find_layers(program)[0]:
        weight = program.constant(layer.weight)
        assert float((weight == 0).float().mean()) >= 0.4
        found |= {call.name: weight == 0 for call in layer.calls}
    return found


def planned(program: fxpress.Program, data: list[Tensor], **config):
    return make_plan(program, QuantConfig(**config), Calibration(data, program), Target.parse("cpu"))


@pytest.mark.parametrize(("kind", "per_channel"), [("conv", True), ("linear", False)])
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_integers_are_zero_where_weights_are(kind, per_channel, algorithm):
    program = sparse(kind)
    config = {"per_channel": per_channel, "algorithms": (algorithm,)}
    if algorithm == "awq":
        config = {"activation_bits": None, "weight_bits": 8, "algorithms": ("awq",)}
    plan = planned(program, IMAGES if kind == "conv" else ROWS, **config)
    wanted = masks(program)
    assert len(plan.layers) + len(plan.stored) == (1 if kind == "conv" and algorithm == "awq" else len(wanted))
    for name, layer in plan.layers.items():
        assert bool((layer.integers[wanted[name]] == 0).all()), name
        assert int(layer.integers[~wanted[name]].count_nonzero()) > 0.8 * int((~wanted[name]).sum())
    for name, stored in plan.stored.items():
        assert bool((stored.stored[wanted[name]] == 0).all()), name


@pytest.mark.parametrize("algorithms", [(), ("gptq",), ("awq", "gptq")], ids=str)
@pytest.mark.parametrize(
    "config",
    [{"weight_bits": 4, "group": 16}, {"weight_bits": 4, "group": 16, "symmetric_weights": False}, {"weight_bits": 8}],
    ids=str,
)
def test_stored_weights_are_zero_where_weights_are(config, algorithms):
    program = sparse("linear")
    plan = planned(program, ROWS, activation_bits=None, algorithms=algorithms, **config)
    wanted = masks(program)
    assert set(plan.stored) == set(wanted)
    for name, layer in plan.stored.items():
        k = layer.weight.shape[1]
        weight = expand_weight(layer.stored, layer.scale, layer.zero, layer.bits, layer.group, k)
        assert bool((weight[wanted[name]] == 0).all()), name


def test_clustered_and_narrow_weights():
    torch.manual_seed(0)
    x = torch.randn(2, 160)
    program = fxpress.prune(nn.Linear(160, 128).eval(), "2:4", args=(x,))
    program = PassManager("default").run(program)
    (mask,) = masks(program).values()
    clustered = PassManager("cluster-weights,fold-constants").run(program)
    (weight,) = [x for x in clustered.constants.values() if x.shape == mask.shape]
    assert weight.dtype == torch.uint8
    assert bool((weight[mask] == 0).all())  # the first value of a codebook is 0
    narrow = fxpress.quantize(program, "bf16")
    assert any(bool((x[mask] == 0).all()) for x in narrow.constants.values() if x.shape == mask.shape)


@pytest.mark.parametrize("keep_zeros", [True, False])
def test_training_keeps_zeros(keep_zeros, tmp_path: Path):
    program = fxpress.quantize(sparse("conv"), calibration=IMAGES, profitable="off", ignore="linear")
    program.save(tmp_path / "q.program")
    program = fxpress.Program.load(tmp_path / "q.program")
    before = {name: x for name, x in program.constants.items() if x.dim() > 1}
    assert sorted(x.dtype == torch.int8 for x in before.values()) == [False, True, True]
    module = trainable(program, keep_zeros=keep_zeros)
    optimizer = torch.optim.Adam(module.parameters(), 0.05, weight_decay=0.01)
    for x in IMAGES:
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
    found = module.convert()
    assert torch.equal(found.run(IMAGES[0]), module(IMAGES[0]))
    after = [x for x in found.constants.values() if x.dim() > 1]
    pairs = [(x, next(y for y in after if y.shape == x.shape)) for x in before.values()]
    assert all(bool((y[x == 0] == 0).all()) == keep_zeros for x, y in pairs)
    assert not any(torch.equal(x, y) for x, y in pairs)


def test_zeros_of_rounding_alone_train():
    torch.manual_seed(0)
    x = torch.randn(16, 64)
    program = fxpress.quantize(nn.Linear(64, 64).eval(), args=(x,), calibration=[x], profitable="off")
    (weight,) = [w for w in program.constants.values() if w.dim() > 1]
    share = float((weight == 0).float().mean())
    assert 0 < share < 0.1
    module = trainable(program)
    module(x).square().sum().backward()
    (layer,) = module.layers.values()
    assert int(layer.weight.grad[weight == 0].count_nonzero()) > 0
