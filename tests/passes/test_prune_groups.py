"""Dependency groups: what goes together, which factor of a reshaped dim, what stays whole and why."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.passes.pruning.groups import Group, Groups, find_groups
from fxpress.passes.pruning.view_maps import reshape_parts
from fxpress.testing import trace
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn


class Tied(nn.Module):
    """The embedding's table is the last layer's weight; one layer is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.twice = nn.Embedding(11, 8), nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        return F.linear(self.twice(self.twice(x).relu()), self.table.weight)


def groups_of(model: nn.Module, *args: Tensor) -> Groups:
    return find_groups(trace(model.eval(), *args))


def constants(group: Group) -> set[tuple[str, int]]:
    return {(axis.node.name, axis.dim) for axis in group.constants}


def reason_of(groups: Groups, name: str, dim: int) -> str:
    (found,) = [b for b in groups.blocked if any((axis.node.name, axis.dim) == (name, dim) for axis in b.axes)]
    return found.reason


def test_tied_and_shared_weights_are_one_group():
    (group,) = groups_of(Tied(), torch.randint(0, 11, (2, 3))).removable
    assert group.size == 8
    assert constants(group) == {("table_weight", 1), ("twice_weight", 0), ("twice_weight", 1), ("twice_bias", 0)}


def test_inputs_and_outputs_stay_whole():
    groups = groups_of(nn.Linear(4, 5), torch.randn(2, 4))
    assert groups.removable == ()
    assert reason_of(groups, "weight", 1) == "an input of the model"
    assert reason_of(groups, "weight", 0).startswith("an output of the model")


class CumulativeProduct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu().cumprod(-1).tanh())


def test_an_op_without_a_map_stops_its_group_and_is_named():
    groups = groups_of(CumulativeProduct(), torch.randn(2, 4))
    assert groups.removable == ()
    (blocked,) = [b for b in groups.blocked if b.axes[0].node.name == "first_weight" and b.axes[0].dim == 0]
    assert blocked.node.name.startswith("cumprod")
    assert blocked.reason == "aten.cumprod.default has no index map"
    chain = [str(axis) for axis in blocked.chain]
    assert chain == ["%first_weight dim 0", "%linear dim 1", "%relu dim 1"]
    assert "cumprod (aten.cumprod.default, test_prune_groups.py:" in blocked.details()


def test_details_print_the_chain_with_source_lines():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    (group,) = groups_of(model, torch.randn(2, 4)).removable
    lines = group.details().split("\n")
    assert lines[0] == "group linear: 6 units"
    assert lines[1] == "  %constant_0_weight dim 0: 6 of 6 indices"
    assert lines[2].startswith("    %linear dim 1: 6 of 6 indices, by %linear (aten.linear.default, ")
    assert any("%constant_2_weight dim 1: 6 of 6 indices, by %linear_1" in line for line in lines)


def test_a_concatenation_has_a_group_for_each_part():
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.last = nn.Linear(4, 3), nn.Linear(4, 5), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cat([self.a(x), x, self.b(x)], -1))

    groups = groups_of(Parts(), torch.randn(2, 4))
    assert [group.size for group in groups.removable] == [3, 5]
    last = [axis for axis in groups.removable[1].constants if axis.node.name == "last_weight"]
    assert groups.removable[1].units[last[0]].tolist() == [-1] * 7 + [0, 1, 2, 3, 4]


class Heads(nn.Module):
    def __init__(self, heads: int, kinds: int, width: int = 24, depth: int = 4) -> None:
        super().__init__()
        self.heads, self.kinds = heads, kinds
        self.q, self.out = nn.Linear(width, heads * depth), nn.Linear(heads * depth, width)
        self.k, self.v = nn.Linear(width, kinds * depth), nn.Linear(width, kinds * depth)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (layer(x).unflatten(-1, (self.kinds, -1)).transpose(1, 2) for layer in (self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.heads != self.kinds)
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("heads", "kinds"), [(6, 6), (6, 3), (2, 2)])
def test_heads_are_the_units_of_attention(heads, kinds):
    (group,) = groups_of(Heads(heads, kinds), torch.randn(2, 5, 24)).removable
    assert group.size == kinds
    rows = {axis.node.name: (group.units[axis] == 0).sum() for axis in group.constants if axis.dim == 0}
    assert rows["q_weight"] == 4 * heads // kinds
    assert rows["k_weight"] == rows["v_weight"] == 4


def test_one_head_loses_depth():
    groups = groups_of(Heads(1, 1, depth=8), torch.randn(2, 5, 24))
    assert sorted(group.size for group in groups.removable) == [8, 8]
    assert {"q_weight", "k_weight"} in [{name for name, dim in constants(g) if dim == 0 and "w" in name}
                                        for g in groups.removable]  # fmt: skip


def test_a_depthwise_convolution_ties_its_channels():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 2, 1))
    (group,) = groups_of(model, torch.randn(1, 3, 5, 5)).removable
    assert group.size == 8
    assert constants(group) >= {("constant_0_weight", 0), ("constant_1_weight", 0), ("constant_2_weight", 1)}


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_parts_of_a_reshape_cover_all_dims(sizes, rng):
    total = torch.Size(sizes).numel()
    after, left = [], total
    while left > 1:
        after.append(rng.choice([n for n in range(2, left + 1) if left % n == 0]))
        left //= after[-1]
    parts = list(reshape_parts(sizes, after))
    assert [d for ours, _, _ in parts for d in ours] == [d for d, n in enumerate(sizes) if n > 1]
    assert [d for _, theirs, _ in parts for d in theirs] == list(range(len(after)))
    for ours, theirs, factors in parts:
        size = torch.Size([sizes[d] for d in ours]).numel()
        assert size == torch.Size([after[d] for d in theirs]).numel()
        assert factors is None or torch.Size(factors).numel() == size or factors == [0]


def test_sizes_that_vary_keep_the_others_prunable():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            batch, steps, _ = x.shape
            y = self.first(x).reshape(batch, steps, 2, 3)
            return self.last(y.relu().reshape(batch, steps, 6))

    import fxpress

    steps = torch.export.Dim("steps", min=2, max=64)
    program = fxpress.capture(Flat().eval(), (torch.randn(2, 5, 4),), dynamic_shapes=({1: steps},))
    (group,) = find_groups(program).removable
    assert group.size == 3
