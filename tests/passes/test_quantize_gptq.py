"""Rounding errors of weights cancel in the layers' results."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.ops.quantized import expand_weight
from fxpress.pass_manager import PassManager
from fxpress.passes.quantization.calibration import Calibration
from fxpress.passes.quantization.gptq import round_columns, round_error
from fxpress.passes.quantization.layer_rows import matrix_of, rows_of
from fxpress.passes.quantization.planning import make_plan
from fxpress.passes.quantization.scheme import QuantConfig
from fxpress.passes.quantization.walking import walk
from fxpress.target import Target
from fxpress.testing import trace
from torch import nn

NEAREST = torch.zeros(1)


def problem(groups, n, k, bits=4):
    x = torch.randn(groups, 4 * k, k, dtype=torch.float64) @ torch.randn(groups, k, k, dtype=torch.float64)
    weight, largest = torch.randn(groups, n, k), 2 ** (bits - 1) - 1
    scale = weight.abs().amax(2, keepdim=True) / largest
    return weight, x.mT @ x, scale, largest


@pytest.mark.parametrize(("groups", "n", "k"), [(1, 20, 300), (5, 1, 9), (2, 7, 33)])
def test_beats_the_nearest_integers(groups, n, k):
    weight, moment, scale, largest = problem(groups, n, k)
    nearest = (weight / scale).round()
    found = round_columns(weight, moment, scale, NEAREST, -largest, largest)
    assert float(found.abs().max()) <= largest
    assert torch.equal(found, found.round())
    before, after = (round_error(weight, moment, q, scale, NEAREST).sum() for q in (nearest, found))
    assert after < 0.7 * before


def test_independent_inputs_are_rounded_to_the_nearest():
    weight, _, scale, largest = problem(2, 6, 10)
    moment = torch.diag_embed(torch.rand(2, 10).double() + 0.1)
    assert torch.equal(
        round_columns(weight, moment, scale, NEAREST, -largest, largest), (weight.double() / scale.double()).round()
    )


def test_inputs_of_zeros_are_no_failure():
    weight, moment, scale, largest = problem(2, 6, 10)
    moment[0] = 0
    moment[1, 3] = moment[1, :, 3] = 0
    found = round_columns(weight, moment, scale, NEAREST, -largest, largest)
    assert bool(found.isfinite().all())
    assert torch.equal(found[0], (weight[0].double() / scale[0].double()).round())


LAYERS = {
    "linear": (nn.Linear(6, 4), (3, 5, 6)),
    "conv": (nn.Conv2d(6, 4, 3, stride=2, padding=(1, 2)), (2, 6, 9, 8)),
    "grouped": (nn.Conv2d(6, 4, (1, 3), groups=2, dilation=2), (1, 6, 9, 8)),
    "depthwise": (nn.Conv2d(6, 12, 3, groups=6), (1, 6, 9, 8)),
    "one dimension": (nn.Conv1d(6, 4, 3, padding=1), (2, 6, 9)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("layout", ["", ",assign-layouts"])
def test_rows_times_matrix_are_the_layer(name, layout):
    module, shape = LAYERS[name]
    x = torch.randn(shape)
    program = PassManager("normalize-conv,normalize-linear" + layout).run(trace(module, x))
    node = next(n for n in program.nodes if "fxpress" in str(n.target))
    ((given, *_), y) = next(iter(Calibration([(x,)], program).replay(program, [node.name])))[node.name]
    found = rows_of(node, given) @ matrix_of(node, module.weight.detach()).mT
    whole = found.movedim(0, 1).flatten(1) + module.bias
    dim = -1 if "linear" in name or node.args[-1] else 1
    torch.testing.assert_close(whole.detach(), y.movedim(dim, -1).flatten(0, -2))


def planned(module, items, **config):
    program = PassManager("default").run(trace(module.eval(), *items[0]))
    return make_plan(program, QuantConfig(**config), Calibration(items, program), Target.parse("cpu"))


def squared_error(plan, items):
    exact, rounded = walk(plan, items)
    return float(sum((e - r).square().sum() for (e,), (r,) in zip(exact, rounded, strict=True)))


@pytest.mark.parametrize("sequence", [True, False])
def test_integer_layers_come_closer(sequence):
    module = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    mix = torch.randn(32, 32)
    items = [(torch.randn(1, 24, 32) @ mix if sequence else torch.randn(24, 32) @ mix,) for _ in range(8)]
    before = planned(module, items, per_channel=False)
    after = planned(module, items, per_channel=False, algorithms=("gptq",))
    assert squared_error(after, items) < squared_error(before, items)
    moved = [not torch.equal(after.layers[name].bias, layer.bias) for name, layer in before.layers.items()]
    assert moved == [not sequence] * 2


@pytest.mark.parametrize(
    "config",
    [{"weight_bits": 4, "group": 16}, {"weight_bits": 4, "group": 16, "symmetric_weights": False}, {"weight_bits": 8}],
    ids=str,
)
def test_stored_layers_come_closer(config):
    module, mix = nn.Linear(33, 24), torch.randn(33, 33)
    items = [(torch.randn(40, 33) @ mix,) for _ in range(4)]
    errors = []
    for algorithms in ((), ("gptq",)):
        plan = planned(module, items, activation_bits=None, algorithms=algorithms, **config)
        (layer,) = plan.stored.values()
        weight = expand_weight(layer.stored, layer.scale, layer.zero, layer.bits, layer.group, 33)
        errors.append(float(sum((F.linear(x, weight - module.weight.detach())).square().sum() for (x,) in items)))
    assert errors[1] < 0.8 * errors[0]
