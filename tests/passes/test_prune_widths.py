"""Widths that kernels like: whole vectors, powers of two below one, heads as they are, and never all of a model."""

from __future__ import annotations

import fxpress
import networkx as nx
import numpy as np
import pytest
import torch
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.groups import Group, find_groups
from fxpress.passes.pruning.ties import Axis
from fxpress.passes.pruning.widths import Rounding, Widths
from fxpress.target import Target
from fxpress.testing import trace
from torch import nn

AVX512 = Target.parse("cpu{isa=avx512}")


def group_of(size: int, width: int = 1) -> Group:
    """Units of `width` indices of one constant."""
    graph = torch.fx.Graph()
    weight = graph.create_node("get_attr", "weight")
    return Group("weight", size, {Axis(weight, 0): np.repeat(np.arange(size), width)}, nx.Graph())


@pytest.mark.parametrize(
    ("size", "left", "rounded"),
    [
        *((64, 32, 32), (64, 33, 48), (64, 61, 64), (100, 97, 100)),  # whole vectors, never more than there are
        *((6, 3, 4), (8, 5, 8), (16, 2, 2), (16, 9, 16), (24, 12, 16)),  # below one vector powers of two
    ],
)
def test_channels_are_rounded_up_to_vectors(size, left, rounded):
    assert Rounding.of(PruneConfig(), AVX512).units(group_of(size), left) == rounded


@pytest.mark.parametrize(("width", "left", "rounded"), [(64, 11, 11), (16, 5, 5), (8, 5, 6), (4, 5, 8), (20, 3, 3)])
def test_units_as_wide_as_a_vector_are_not_rounded(width, left, rounded):
    assert Rounding.of(PruneConfig(), AVX512).units(group_of(12, width), left) == rounded


def test_the_target_says_how_wide_vectors_are():
    for target, step in (("cpu{isa=avx2}", 8), ("cpu{isa=avx512}", 16), ("systolic{rows=8,columns=32}", 32)):
        assert Rounding.of(PruneConfig(), Target.parse(target)) == Rounding(step, narrow=True)
    assert Rounding.of(PruneConfig(multiple=4), AVX512) == Rounding(4)
    assert Rounding.of(PruneConfig(), None) == Rounding()


def widths(program: fxpress.Program) -> list[int]:
    return [len(x) for name, x in program.constants.items() if name.endswith("bias")]


def test_what_was_rounded_is_said():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 3)).eval()
    program = fxpress.prune(model, 0.3, args=(torch.randn(2, 8),), target=AVX512)
    assert widths(program) == [48, 16, 3]
    assert program.history[-1].rewrites[-2:] == (
        "linear: 48 of 64 units left, 45 rounded up",
        "linear_1: 16 of 20 units left, 14 rounded up",
    )
    exact = fxpress.prune(model, PruneConfig(ratio=0.3, multiple=1), args=(torch.randn(2, 8),), target=AVX512)
    assert widths(exact) == [45, 14, 3]


def test_a_model_too_small_to_be_rounded_loses_what_was_asked_for():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    program = fxpress.prune(model, 0.25, args=(torch.randn(2, 4),), target=AVX512)
    assert widths(program) == [6, 12, 3]


def test_sizes_follow_the_units_left():
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 6), nn.Linear(17, 3)

        def forward(self, x):
            return self.c(torch.cat([self.a(x), self.b(x).relu(), x[:, :3]], 1))

    program = trace(Joined().eval(), torch.randn(2, 4))
    groups = find_groups(program)
    first, second = groups.removable
    (weight,) = (node for node in program.nodes if node.op == "get_attr" and node.meta["val"].shape == (3, 17))
    sizes = Widths(groups)
    assert sizes.parts(Axis(weight, 1)) == [(first, 1), (second, 1)]
    assert sizes.fixed(Axis(weight, 1)) == 3
    assert sizes.at({first: 5}).count(Axis(weight, 1)) == 5 + 6 + 3
    assert sizes.at({first: 5, second: 1}).indices(Axis(weight, 1)).tolist() == list(range(9))
