"""Differences between the channels of an input move into weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.pass_manager import PassManager
from fxpress.passes.quantization.calibration import Calibration
from fxpress.passes.quantization.scheme import QuantConfig
from fxpress.passes.quantization.smooth_quant import (
    MigrateScales,
    SmoothQuant,
    best_migration,
    migration,
    product_error,
)
from fxpress.testing import check_pass, op_counts, trace
from torch import nn

CONFIG = QuantConfig()
X = torch.randn(2, 8, 16) * torch.logspace(-2, 1, 16)


class Block(nn.Module):
    """A linear layer behind what `make` makes of x; `residual` reads that too."""

    def __init__(self, make, residual=False):
        super().__init__()
        self.make, self.residual, self.last = make, residual, nn.Linear(16, 12)

    def forward(self, x):
        y = self.make(x)
        z = self.last(y)
        return (z, y + 1) if self.residual else z


def fused(module, *inputs):
    return PassManager("default").run(trace(module.eval(), *(inputs or (X,))))


def norm():
    norm = nn.LayerNorm(16)
    with torch.no_grad():
        norm.weight.copy_(torch.logspace(-2, 1, 16))
        norm.bias.copy_(torch.randn(16))
    return norm


def smoothed(program):
    items = [(torch.randn_like(program.example_inputs[0]) * torch.logspace(-2, 1, 16),) for _ in range(4)]
    return SmoothQuant().prepare(program, CONFIG, Calibration(items, program))


def test_migration_is_equation_4_with_mean_1():
    x, weight = torch.tensor([4.0, 1.0, 0.25]), torch.tensor([1.0, 1.0, 4.0])
    s = migration(x, weight, 0.5)
    expected = (x.double() / weight.double()).sqrt()
    torch.testing.assert_close(s, expected / expected.log().mean().exp())


def test_migration_leaves_channels_of_zeros():
    s = migration(torch.tensor([0.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 2.0]), 0.7)
    assert s.tolist() == [1.0, 1.0, 1.0]
    assert migration(torch.zeros(3), torch.ones(3), 0.5).tolist() == [1.0] * 3


def test_best_migration_beats_none_where_channels_differ():
    rows, weight = torch.randn(256, 16) * torch.logspace(-2, 1, 16), torch.randn(12, 16)
    low, high = rows.amin(0), rows.amax(0)
    s, after, before = best_migration(rows, weight, low, high, CONFIG)
    assert before == product_error(rows, weight, low, high, torch.ones(16), CONFIG)
    assert after == product_error(rows, weight, low, high, s, CONFIG)
    assert after < before / 2


FREE = {
    "layer norm": norm,
    "layer norm without weights": lambda: nn.LayerNorm(16, elementwise_affine=False),
    "rms norm": lambda: nn.RMSNorm(16, eps=1e-5),
    "linear": lambda: nn.Linear(16, 16),
    "linear with relu": lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU()),
}


@pytest.mark.parametrize("name", FREE)
def test_goes_into_the_layer_before(name):
    program = fused(Block(FREE[name]()))
    x = next(node.all_input_nodes[0] for node in reversed(program.nodes) if "linear" in str(node.target))
    after = PassManager(MigrateScales({x.name: torch.rand(16) + 0.5}), numerics=True).run(program)
    assert op_counts(after) == op_counts(program)
    assert after.history[-1].changed


MULTIPLIED = {
    "another user": (norm, True),
    "gelu": (lambda: nn.Sequential(nn.Linear(16, 16), nn.GELU()), False),
    "norm over two dims": (lambda: nn.LayerNorm((8, 16)), False),
    "computed": (lambda: torch.sin, False),
}


@pytest.mark.parametrize("name", MULTIPLIED)
def test_multiplies_where_the_layer_before_cannot(name):
    make, residual = MULTIPLIED[name]
    program = fused(Block(make(), residual))
    x = next(node.all_input_nodes[0] for node in reversed(program.nodes) if "linear" in str(node.target))
    after = PassManager(MigrateScales({x.name: torch.rand(16) + 0.5}), numerics=True).run(program)
    assert op_counts(after).get("mul", 0) == op_counts(program).get("mul", 0) + 1


def test_chain_of_layers(golden):
    module = nn.Sequential(norm(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4))
    after = smoothed(fused(module))
    golden(after.text())


def test_chosen_from_data():
    program = fused(Block(norm(), residual=True))
    after = smoothed(program)
    assert op_counts(after)["mul"] == 1
    x = torch.randn(2, 8, 16)
    torch.testing.assert_close(after.run(x), program.run(x))


def test_even_channels_are_not_multiplied():
    even = fused(Block(nn.LayerNorm(16), residual=True))
    items = [(torch.randn(2, 8, 16),) for _ in range(4)]
    after = SmoothQuant().prepare(even, CONFIG, Calibration(items, even))
    assert op_counts(after) == op_counts(even)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(16, 12)

    def forward(self, x):
        heads = x.unflatten(-1, (2, 8)).transpose(1, 2)
        return self.last(F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2))


def test_nothing_is_multiplied_between_attention_and_a_layer():
    program = fused(Attention())
    assert op_counts(program)["scaled_dot_product_attention"] == 1
    assert op_counts(smoothed(program)) == op_counts(program)


def test_few_rows_tell_too_little():
    program = fused(Block(norm(), residual=True))
    few = [(torch.randn(2, 8, 16),) for _ in range(3)]
    after = SmoothQuant().prepare(program, CONFIG, Calibration(few, program))
    assert op_counts(after) == op_counts(program)


def test_computed_weights_stay():
    program = fused(lambda_module(lambda x: F.linear(x, x[0])))
    assert smoothed(program) is program


def test_a_second_run_changes_nothing():
    check_pass(MigrateScales({"no-such-value": torch.ones(16)}), fused(Block(norm())))


def lambda_module(function):
    class Module(nn.Module):
        def forward(self, x):
            return function(x)

    return Module()
