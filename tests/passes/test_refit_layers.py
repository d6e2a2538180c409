"""Least squares after pruning: the error falls, by as much as it can, and what has to stay as it was does."""

from __future__ import annotations

import fxpress
import pytest
import torch
import torch.nn.functional as F
from fxpress import PassManager
from fxpress.errors import InvalidInput
from fxpress.passes.pruning.config import PruneConfig
from fxpress.passes.pruning.least_squares import LeastSquares
from fxpress.passes.pruning.refit_layers import RefitLayers, changed_layers, waves
from fxpress.rewriter import Rewriter
from torch import Tensor, nn


class Mixed(nn.Module):
    """A residual sum, a batch norm after a convolution without bias, depthwise, grouped and strided convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.depthwise, self.second = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Conv2d(12, 12, 1)
        self.third, self.head = nn.Conv2d(12, 8, (3, 2), (2, 1), (1, 0), groups=2), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.second(F.relu6(self.depthwise(x))) + x)
        return self.head(F.relu(self.third(x)).mean((2, 3)))


def model() -> nn.Module:
    torch.manual_seed(0)
    net = Mixed()
    net.norm.running_mean.uniform_(-1, 1)
    net.norm.running_var.uniform_(0.5, 2)
    return net.eval()


DATA = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(8)]
UNSEEN = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(99))


def error(program: fxpress.Program, net: nn.Module, x: Tensor = UNSEEN) -> float:
    with torch.no_grad():
        wanted = net(x)
    return float((program.run(x) - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    "config",
    [
        PruneConfig(ratio=0.5),
        PruneConfig(ratio=0.5, schedule="iterative", steps=2),
        PruneConfig(pattern="2:4"),
        pytest.param(PruneConfig(ratio=0.6, pattern="elements"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_error_falls_on_inputs_that_were_not_seen(config):
    net = model()
    pruned = fxpress.prune(net, config, args=(UNSEEN,))
    recovered = fxpress.prune(
        net, PruneConfig(**vars(config) | {"recovery": "least-squares"}), args=(UNSEEN,), calibration=DATA
    )
    assert error(recovered, net) < 0.7 * error(pruned, net)
    for name, constant in pruned.constants.items():
        assert recovered.constants[name].shape == constant.shape
        if constant.dim() > 1:
            assert not recovered.constants[name][constant == 0].any()  # zeros stay


def test_what_the_data_says_nothing_about_stays():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    one = torch.randn(1, 4)
    program = fxpress.capture(net, (one,))
    recovered = fxpress.prune(program, PruneConfig(ratio=0.5, recovery="least-squares"), calibration=[one])
    plain = fxpress.prune(program, 0.5)
    assert torch.equal(recovered.constants["constant_2_weight"], plain.constants["constant_2_weight"])
    torch.testing.assert_close(recovered.run(one), net(one))  # the bias takes it all


def test_recovery_has_no_made_up_inputs():
    with pytest.raises(InvalidInput, match=r"^calibration must be given with recovery='least-squares', which fits"):
        fxpress.prune(model(), PruneConfig(recovery="least-squares"), args=(UNSEEN,))
    with pytest.raises(InvalidInput, match=r"^recovery must be one of \['none', 'least-squares'\], not 'magic'"):
        PruneConfig(recovery="magic")
    with pytest.raises(InvalidInput, match=r"^refit-layers must be given the original Program"):
        PassManager("refit-layers").run(fxpress.capture(model(), (UNSEEN,)))


def test_nothing_is_refitted_where_nothing_changed():
    program = fxpress.capture(model(), (UNSEEN,))
    record = PassManager([RefitLayers(program, (), [(UNSEEN,)])]).run(program).history[-1]
    assert (record.rewrites, record.skipped) == ((), ())


def test_a_second_run_changes_little():
    net, data = model(), [(x,) for x in DATA]
    program = fxpress.capture(net, (UNSEEN,))
    once = fxpress.prune(program, PruneConfig(pattern="2:4", recovery="least-squares"), calibration=DATA)
    twice = PassManager([RefitLayers(program, (), data)]).run(once)
    assert abs(error(twice, net) - error(once, net)) < 0.05 * error(once, net)


def test_inputs_without_a_batch_and_one_dimension():
    net = nn.Sequential(nn.Conv1d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv1d(8, 4, 3, 1, 2, dilation=2)).eval()
    items = [torch.randn(3, 20) for _ in range(6)]
    plain = fxpress.prune(net, PruneConfig(ratio=0.5, multiple=1), args=(items[0],))
    config = PruneConfig(ratio=0.5, multiple=1, recovery="least-squares")
    recovered = fxpress.prune(net, config, args=(items[0],), calibration=items[1:])
    assert error(recovered, net, items[0]) < error(plain, net, items[0])


def test_shared_weights_and_unknown_layers_stay_and_say_why():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.up = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1), nn.ConvTranspose2d(8, 8, 2)
            self.out = nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.up(self.b(self.b(self.a(x).relu()).relu()).relu()).relu())

    x = torch.randn(1, 2, 4, 4)
    config = PruneConfig(ratio=0.5, recovery="least-squares")
    record = fxpress.prune(Odd(), config, args=(x,), calibration=[x]).history[-1]
    assert record.skipped == (
        "%conv2d_1: keeps its weights: %b_weight is shared with another layer",
        "%conv2d_2: keeps its weights: %b_weight is shared with another layer",
        "%conv_transpose2d: keeps its weights: there is no least squares for such a layer",
    )
    assert [line for line in record.rewrites if line.endswith("of the error left")]


def test_layers_that_do_not_depend_on_each_other_are_refitted_together():
    net, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(1, 5, 8)
    original = fxpress.capture(lambda x: net(x, x, x, need_weights=False)[0] + net.out_proj(x), (x,))
    program = original.map_constants(lambda constant: constant + 1)
    found = waves(program, list(changed_layers(original, program, Rewriter(program))))
    names = [[node.name for node in wave] for wave in found]
    layers = [node.name for node in program.nodes if str(node.target) == "aten.linear.default"]
    assert sorted(name for wave in names for name in wave) == sorted(layers)
    assert len(names) < len(layers)


@pytest.mark.parametrize("sparse", [False, True])
def test_least_squares_finds_the_weights_that_made_the_errors(sparse):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3, 5, generator=generator)
    if sparse:
        weight[:, :, 1] = 0
    rows = torch.randn(2, 40, 5, generator=generator) + 1
    step, shift = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, generator=generator)
    step = step * (weight != 0)
    fit = LeastSquares(weight, 1e-12)
    for some in rows.split(7, 1):
        fit.add(some, some @ step.mT + shift.unsqueeze(1))
    found, moved = fit.solve()
    torch.testing.assert_close(found, step.double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved, shift.double(), rtol=1e-4, atol=1e-5)
    assert fit.left(found) < 1e-3


@pytest.mark.parametrize("value", [0.0, 1e-3, 1e4])
def test_inputs_that_never_change_tell_of_the_bias_only(value):
    weight = torch.randn(2, 3, 5)
    fit = LeastSquares(weight, 1e-3)
    for _ in range(50):
        fit.add(torch.full((2, 7, 5), value / 3), torch.full((2, 7, 3), 0.1))
    step, shift = fit.solve()
    torch.testing.assert_close((step * value / 3).sum(2) + shift, torch.full((2, 3), 0.1, dtype=torch.float64))
    assert float((step * value).abs().max()) < 1e-3


def test_data_that_is_not_finite_leaves_the_layer_alone():
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), torch.randn(1, 4)
    nn.init.constant_(net[0].weight, 100.0)
    huge = torch.full((1, 4), 3e38)
    program = fxpress.prune(net, PruneConfig(ratio=0.5, recovery="least-squares"), args=(x,), calibration=[huge])
    assert any("are not finite" in reason for reason in program.history[-1].skipped)
