"""`fxpress.prune` on what it must refuse, and on weights, dtypes and shapes out of the ordinary."""

from __future__ import annotations

import re

import fxpress
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fxpress.errors import InvalidInput, Unsupported
from fxpress.numerics import relative_error, run_float64
from fxpress.pass_manager import PassManager
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.masked import MaskedOriginal
from fxpress.passes.pruning.pruning_sensitivity import measure_sensitivity
from fxpress.passes.pruning.steps import prune_step, removable_groups
from fxpress.program import Program
from torch import Tensor, nn

IMAGE = torch.randn(2, 3, 8, 8)
NOT_RATIOS = (1, 1.5, -0.1, float("nan"), float("inf"), True, "0.5", [0.5], torch.tensor(0.5))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def program() -> Program:
    return fxpress.capture(network(), (IMAGE,))


def pruned(program: Program, ratio: float = 0.5) -> tuple[Program, MaskedOriginal]:
    groups = removable_groups(program)
    config = PruneConfig(ratio=ratio, importance="random", multiple=1)
    step = prune_step(program, groups, config, [], {group.name: group.size for group in groups.removable})
    return PassManager([step]).run(program), MaskedOriginal(program, step.removal)


@pytest.mark.parametrize("ratio", NOT_RATIOS, ids=repr)
def test_ratios_outside_their_range_are_refused(ratio, program):
    if not isinstance(ratio, str):  # which is a preset's name
        with pytest.raises(InvalidInput, match=r"^ratio must be a number from 0 up to but not 1, not "):
            fxpress.prune(program, ratio)
    for name, make in {
        "ratio": lambda: PruneConfig(ratio=ratio),
        "ratio of 'conv2d'": lambda: PruneConfig(ratios={"conv2d": ratio}),
        "blocks": lambda: PruneConfig(blocks=ratio),
        "most": lambda: PruneConfig(most=ratio),
        "ratios": lambda: measure_sensitivity(program, PruneConfig(), [(IMAGE,)], ratios=[ratio]),
    }.items():
        with pytest.raises(InvalidInput, match=rf"^{name} must be a number from 0 up to but not 1, not "):
            make()


@pytest.mark.parametrize("config", ["0.5", "half", ""])
def test_texts_are_names_of_presets(config, program):
    with pytest.raises(InvalidInput, match=rf"^config must be a ratio, a PruneConfig or one of \[.*\], not '{config}'"):
        fxpress.prune(program, config)


def test_ratios_of_layers_are_a_dict():
    with pytest.raises(InvalidInput, match=r"^ratios must be a dict from scopes to ratios, not \[0\.5\]"):
        PruneConfig(ratios=[0.5])


def test_numbers_of_numpy_are_ratios(program):
    small = fxpress.prune(program, PruneConfig(ratio=np.float32(0.5), multiple=1))
    assert small.constants["constant_0_weight"].shape == (8, 3, 3, 3)


def test_a_ratio_that_would_empty_a_layer_leaves_one_unit(program):
    small = fxpress.prune(program, PruneConfig(ratio=0.999, multiple=1))
    assert [tuple(x.shape) for x in small.constants.values() if x.dim() == 4] == [(1, 3, 3, 3), (1, 1, 3, 3)]
    assert small.run(IMAGE).shape == (2, 5)
    again = fxpress.prune(nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3)), 0.25, args=(torch.randn(1, 4),))
    assert again.constants["constant_0_weight"].shape == (2, 4)  # a quarter of two units is none


def test_a_scope_that_names_only_outputs_is_refused_with_the_reason(program):
    for name, options in (
        ("only", {"only": "7"}),
        ("only", {"only": ["0", re.compile("^7$")]}),
        ("ratios", {"config": PruneConfig(ratios={"7": 0.5})}),
    ):
        with pytest.raises(InvalidInput, match=rf"^{name} must name layers that can lose units, but '\^?7\$?' cannot:\n"
                                               r"%constant_7_weight dim 0 stays whole: %output \(output\): an output "
                                               r"of the model, whose shape or meaning would change"):  # fmt: skip
            fxpress.prune(program, **options)
    ignored = fxpress.prune(program, 0.5, ignore="7")  # it stays whole anyway
    assert ignored.text() == fxpress.prune(program, 0.5).text()


def test_scopes_must_be_scopes(program):
    for scope in ("", 3):
        with pytest.raises(InvalidInput, match=rf"^a scope must be a node's name, .* not {scope!r}"):
            fxpress.prune(program, 0.5, only=scope)
    with pytest.raises(InvalidInput, match=r"(?s)^model must have channels, .*%conv2d_1 \(.*\): named in ignore"):
        fxpress.prune(program, 0.5, ignore=["0", "3"])


class Residual(nn.Module):
    """The sum of two layers is an output; a third layer is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inside, self.last = nn.Linear(4, 8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return y + self.last(self.inside(y).relu())


def test_a_layer_that_is_added_to_an_output_stays_whole():
    args = (torch.randn(2, 4),)
    small = fxpress.prune(Residual().eval(), PruneConfig(multiple=1), args=args)
    assert {name: tuple(x.shape) for name, x in small.constants.items() if x.dim() > 1} == {
        "first_weight": (8, 4), "inside_weight": (6, 8), "last_weight": (8, 6)
    }  # fmt: skip
    with pytest.raises(InvalidInput, match=r"^only must name layers that can lose units, but 'first' cannot:\n"):
        fxpress.prune(Residual().eval(), 0.5, args=args, only="first")


class Tied(nn.Module):
    """A table that is the last layer's weight, too; a layer that is called twice; two branches of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(11, 8), nn.LayerNorm(8)
        self.twice, self.branch = nn.Linear(8, 8), nn.Linear(8, 12)
        self.join = nn.Linear(12, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        x = self.twice(self.twice(x).relu())
        x = x + self.join(self.branch(x).relu()) + self.join(self.branch(-x).sigmoid())
        return F.linear(self.norm(x), self.table.weight)


def test_tied_and_shared_weights_are_right_and_stay_one_constant():
    torch.manual_seed(0)
    program = fxpress.capture(Tied().eval(), (torch.randint(0, 11, (2, 5)),))
    small, masked = pruned(program)
    (found,) = run_float64(small, small.example_inputs)
    (wanted,) = masked.run_float64(*program.example_inputs)
    assert relative_error(found, wanted) < 1e-9
    assert {name: tuple(x.shape) for name, x in small.constants.items() if x.dim() > 1} == {
        "table_weight": (11, 4), "twice_weight": (4, 4), "branch_weight": (6, 4), "join_weight": (4, 6)
    }  # fmt: skip


def tokens() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), nn.Linear(16, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", [network, tokens])
def test_half_precision_is_right_and_stays(make, dtype):
    torch.manual_seed(0)
    x = (torch.randn(2, 5, 6) if make is tokens else IMAGE).to(dtype)
    program = fxpress.capture(make().eval().to(dtype), (x,))
    groups = removable_groups(program)
    for importance in ("l2", "taylor", "activation"):
        config = PruneConfig(importance=importance, multiple=1)
        small = fxpress.prune(program, config, calibration=[x])
        assert {c.dtype for c in small.constants.values() if c.is_floating_point()} == {dtype}
        assert small.constants.keys() == program.constants.keys()
        step = prune_step(program, groups, config, [(x,)], {g.name: g.size for g in groups.removable})
        (found,), (wanted,) = small.run_flat(x), MaskedOriginal(program, step.removal).run_flat(x)
        assert found.dtype == dtype
        # both round after each of some ten layers, where their sums may differ in order
        assert relative_error(found, wanted) < 20 * torch.finfo(dtype).eps
    with pytest.raises(Unsupported, match=rf"must be float32, not {dtype}"):
        fxpress.compile(small)


def test_sizes_that_vary_stay_open():
    torch.manual_seed(0)
    batch, half = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("half", min=2, max=16)
    program = fxpress.capture(network(), (IMAGE,), dynamic_shapes=({0: batch, 2: 2 * half, 3: 2 * half},))
    small, masked = pruned(program)
    assert small.constants["constant_0_weight"].shape == (8, 3, 3, 3)
    for shape in ((2, 3, 8, 8), (5, 3, 12, 12)):
        x = torch.randn(shape)
        (found,), (wanted,) = run_float64(small, (x,)), masked.run_float64(x)
        assert found.shape == (shape[0], 5)
        assert relative_error(found, wanted) < 1e-9
    with pytest.raises(Unsupported, match=r"^a Program with symbolic sizes cannot be compiled for the CPU"):
        fxpress.compile(small)


class Reshaped(nn.Module):
    """Attention over as many tokens as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 48), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], 16))


def test_heads_go_where_the_number_of_tokens_varies():
    torch.manual_seed(0)
    sizes = {0: torch.export.Dim("batch", min=1, max=8), 1: torch.export.Dim("tokens", min=2, max=64)}
    program = fxpress.capture(Reshaped().eval(), (torch.randn(2, 5, 6),), dynamic_shapes=(sizes,))
    small, masked = pruned(program)
    assert small.constants["qkv_weight"].shape == (24, 6)
    x = torch.randn(3, 9, 6)
    (found,), (wanted,) = run_float64(small, (x,)), masked.run_float64(x)
    assert relative_error(found, wanted) < 1e-9


def test_models_that_cannot_be_pruned_are_refused(program):
    for model in (nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 1)), nn.ReLU()):
        with pytest.raises(InvalidInput, match=r"^model must have channels, heads or hidden units that can be removed"):
            fxpress.prune(model, 0.5, args=(IMAGE,))
    integers = fxpress.quantize(program, calibration=[IMAGE], profitable="off")
    with pytest.raises(InvalidInput, match=r"^model must be of floats, not quantised already; prune it first, then"):
        fxpress.prune(integers, 0.5)


def test_weights_that_are_not_finite_are_refused():
    model = network()
    model[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(InvalidInput, match=r"^weights and activations must be finite, but the l2 importance of group "):
        fxpress.prune(model, 0.5, args=(IMAGE,))
