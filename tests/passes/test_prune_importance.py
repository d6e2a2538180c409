"""Importance, rankings and schedules: which units go, and how many."""

from __future__ import annotations

import math

import fxpress
import numpy as np
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.passes.pruning.config import IMPORTANCES, PRESETS, PruneConfig, config_of
from fxpress.passes.pruning.groups import find_groups
from fxpress.passes.pruning.importance import score
from fxpress.passes.pruning.selection import choose
from fxpress.passes.pruning.widths import Rounding
from fxpress.testing import trace
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def with_dead_unit(importance: str) -> nn.Module:
    """Unit 5 of the first layer is worth nothing by the given measure."""
    model = mlp()
    with torch.no_grad():
        if importance != "activation":
            model[0].weight[5], model[0].bias[5], model[2].weight[:, 5] = 1e-6, 1e-6, 1e-6
        else:
            model[0].bias[5] = -1e6
    return model


@pytest.mark.parametrize("importance", [name for name in IMPORTANCES if name not in ("random", "batch-norm")])
def test_a_unit_that_does_nothing_goes_first(importance):
    program = trace(with_dead_unit(importance), torch.randn(16, 4))
    groups = find_groups(program)
    scores = score(program, groups, PruneConfig(importance=importance), [program.example_inputs])
    first = groups.removable[0]
    assert first.size == 8
    assert scores[first][5] < 1e-3  # of a mean of 1
    assert (scores[first] > 0.1).sum() >= 4
    assert all(np.isclose(each.mean(), 1) for each in scores.values())


def test_taylor_estimates_the_change_of_the_loss():
    program = trace(mlp(), torch.randn(5, 4))
    groups = find_groups(program)

    def loss(y: torch.Tensor) -> torch.Tensor:
        return y.square().sum()

    (first, _) = groups.removable
    found = score(program, groups, PruneConfig(importance="taylor", loss=loss), [program.example_inputs])[first]
    parameters = [p.double() for p in program.constants.values()]
    leaves = [p.clone().requires_grad_() for p in parameters]
    y = program.example_inputs[0].double()
    for weight, bias in ((leaves[0], leaves[1]), (leaves[2], leaves[3]), (leaves[4], leaves[5])):
        y = nn.functional.linear(y, weight, bias)
        y = y.relu() if weight is not leaves[4] else y
    loss(y).backward()
    product = [(p * leaf.grad) for p, leaf in zip(parameters, leaves, strict=True)]
    wanted = (product[0].sum(1) + product[1] + product[2].sum(0)) ** 2
    assert np.allclose(found, (wanted / wanted.mean()).numpy(), rtol=1e-3)


def test_batch_norm_scales_rank_channels():
    norm = nn.BatchNorm2d(6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([3.0, -0.1, 2.0, 0.5, 1.0, -4.0]))
    program = trace(nn.Sequential(nn.Conv2d(3, 6, 1), norm, nn.Conv2d(6, 2, 1)).eval(), torch.randn(1, 3, 4, 4))
    groups = find_groups(program)
    (scores,) = score(program, groups, PruneConfig(importance="batch-norm"), []).values()
    assert scores.argsort().tolist() == [1, 3, 4, 2, 0, 5]


def test_random_importance_follows_the_seed():
    program = trace(mlp(), torch.randn(2, 4))
    groups = find_groups(program)
    first, again, other = (
        [s.tolist() for s in score(program, groups, PruneConfig(importance="random", seed=n), []).values()]
        for n in (1, 1, 2)
    )
    assert first == again != other


def test_weights_that_are_not_finite_are_refused():
    model = mlp()
    with torch.no_grad():
        model[0].weight[2, 1] = math.nan
    with pytest.raises(InvalidInput, match=r"^weights and activations must be finite, but the l2 importance of group"):
        fxpress.prune(model, 0.5, args=(torch.randn(2, 4),))


def test_a_loss_must_be_one_number():
    config = PruneConfig(importance="taylor", loss=lambda y: y)
    with pytest.raises(InvalidInput, match=r"^loss must give one number computed from the model's outputs, not"):
        fxpress.prune(mlp(), config, args=(torch.randn(2, 4),))


PROGRAM = trace(mlp(), torch.randn(2, 4))
GROUPS = find_groups(PROGRAM)


@settings(max_examples=50)
@given(
    ratio=st.floats(0, 0.99),
    ranking=st.sampled_from(["local", "global"]),
    multiple=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_choices_keep_to_the_budget(ratio, ranking, multiple, seed):
    config = PruneConfig(ratio=ratio, ranking=ranking, importance="random", seed=seed)
    scores = score(PROGRAM, GROUPS, config, [])
    original = {group: group.size for group in GROUPS.removable}
    chosen = choose(scores, config, ratios={}, original=original, rounding=Rounding(multiple))
    assert sum(map(len, chosen.values())) <= ratio * sum(original.values()) + 1e-6
    for group, units in chosen.items():
        left = group.size - len(units)
        assert left >= 1
        assert left % multiple == 0 or left == group.size
        assert not units or scores[group][units].max() <= np.delete(scores[group], units).min()
        assert ranking == "global" or len(units) <= ratio * group.size + 1e-6


def test_global_ranking_takes_the_least_of_all():
    a, b = GROUPS.removable
    scores = {a: np.arange(8) + 10.0, b: np.arange(6) + 0.0}
    chosen = choose(scores, PruneConfig(ratio=0.25, ranking="global"), ratios={}, original={a: 8, b: 6})
    assert chosen == {a: [], b: [0, 1, 2]}
    most = choose(scores, PruneConfig(ratio=0.25, ranking="global", most=0.4), ratios={}, original={a: 8, b: 6})
    assert most == {a: [0], b: [0, 1]}


def test_schedules_end_at_the_ratio():
    assert [PruneConfig(schedule="iterative", steps=4).share(n) for n in range(1, 5)] == [0.25, 0.5, 0.75, 1.0]
    cubic = [PruneConfig(schedule="cubic", steps=3).share(n) for n in range(1, 4)]
    assert cubic == pytest.approx([19 / 27, 26 / 27, 1.0])


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.0, math.nan, math.inf, True])
def test_ratios_outside_are_refused(ratio):
    with pytest.raises(InvalidInput, match=r"^ratio must be a number from 0 up to but not 1, not "):
        config_of(ratio)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"importance": "l3"}, r"^importance must be one of \['l1', "),
        ({"ranking": "both"}, r"^ranking must be one of \['local', 'global'\], not 'both'$"),
        ({"schedule": "slow"}, r"^schedule must be one of "),
        ({"multiple": 0}, r"^multiple must be 'auto' or an integer of at least 1, not 0$"),
        ({"multiple": "wide"}, r"^multiple must be 'auto' or an integer of at least 1, not 'wide'$"),
        ({"steps": 3}, r"^steps must be 1 with schedule='one-shot', not 3; use 'iterative' or 'cubic'$"),
        ({"ratios": {"head": 1.0}}, r"^ratio of 'head' must be a number from 0 up to but not 1, not 1\.0$"),
    ],
)
def test_configs_are_checked(options, message):
    with pytest.raises(InvalidInput, match=message):
        PruneConfig(**options)


def test_presets():
    assert config_of("uniform") == PRESETS["uniform"] == PruneConfig()
    assert config_of("global", ratio=0.3).ratio == 0.3
    assert str(config_of(0.25, multiple=8)) == "ratio=0.25,multiple=8"
    with pytest.raises(InvalidInput, match=r"^config must be a ratio, a PruneConfig or one of \['2:4', "):
        config_of("everything")
