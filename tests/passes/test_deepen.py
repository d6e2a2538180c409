"""Networks of every kind made deeper compute what they did."""

from __future__ import annotations

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.numerics import relative_error, run_float64
from fxpress.pass_manager import PassManager
from fxpress.passes.growth.deepen import Deepen
from fxpress.passes.pruning.float_training import trainable
from fxpress.program import Program
from fxpress.testing import op_counts, trace
from hypothesis import given
from hypothesis import strategies as st
from test_remove_units import IMAGE, TOKENS, Net, batch_norm, conv, program_of
from torch import nn

CLOSE = 1e-6


class PreNorm(nn.Module):
    """A block of a transformer: x + attention(norm(x)), x + mlp(norm(x))."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y)[0]
        return x + self.mlp(self.norm2(x))


def basic_block(channels: int = 8) -> nn.Module:
    """ResNet's block: relu(x + norm(conv(relu(norm(conv(x)))))."""

    def forward(m, x):
        y = m.norm(m.first(x)).relu()
        return (x + m.norm2(m.second(y))).relu()

    layers = dict(first=conv(channels, channels), second=conv(channels, channels))
    return Net(forward, **layers, norm=batch_norm(channels), norm2=batch_norm(channels))


def resnet() -> Program:
    layers = conv(3, 8), batch_norm(8), nn.ReLU(), basic_block(), basic_block(), nn.Flatten(), nn.Linear(512, 4)
    return trace(nn.Sequential(*layers).eval(), torch.randn(IMAGE))


def transformer() -> Program:
    return trace(nn.Sequential(PreNorm(), PreNorm(), nn.Linear(16, 3)).eval(), torch.randn(TOKENS))


def deepened(program: Program, **options) -> Program:
    return PassManager([Deepen(**options)]).run(program)


def error(program: Program, grown: Program) -> float:
    (found,), (wanted,) = (run_float64(p, program.example_inputs) for p in (grown, program))
    return relative_error(found, wanted)


@pytest.mark.parametrize("times", [1, 2])
def test_identity_layers_compute_the_same(times):
    program = resnet()
    grown = deepened(program, times=times)
    assert op_counts(grown)["conv2d"] == op_counts(program)["conv2d"] + 3 * times
    assert op_counts(grown)["batch_norm"] == op_counts(program)["batch_norm"] + 3 * times
    assert error(program, grown) < CLOSE
    assert any("no idempotent activation follows it" in line for line in grown.history[-1].skipped)


def test_text(golden):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    golden(deepened(trace(model.eval(), torch.randn(1, 3, 6, 6))).text())


@pytest.mark.parametrize("program", [resnet, transformer], ids=["resnet", "transformer"])
def test_zero_branches_compute_the_same(program):
    before = program()
    grown = deepened(before, kind="block")
    assert error(before, grown) < CLOSE
    layers = "conv2d" if program is resnet else "layer_norm"
    assert op_counts(grown)[layers] == 2 * op_counts(before)[layers] - (program is resnet)
    assert len(grown.history[-1].decisions) == (2 if program is resnet else 4)


def test_a_zero_branch_learns():
    """Its last layer has gradients at once, so that the others have them after a step."""
    grown = deepened(transformer(), kind="block", only="add_1")
    (zeros,) = [name for name, x in grown.constants.items() if x.dim() == 2 and not x.any()]
    module = trainable(grown)
    module(*grown.example_inputs).square().sum().backward()
    assert float(module.weights[zeros].grad.abs().sum()) > 0


def test_copies_have_weights_of_their_own():
    before = transformer()
    grown = deepened(before, kind="block")
    sizes = [sum(x.numel() for x in p.constants.values()) for p in (before, grown)]
    assert sizes[1] == 2 * sizes[0] - (16 * 3 + 3)


def test_new_batch_norms_have_the_statistics_of_the_data():
    program, images = resnet(), [(torch.randn(IMAGE),) for _ in range(3)]
    grown = deepened(program, data=images, only="conv2d")
    name = next(name for name in grown.constants if name.endswith("identity_running_mean"))
    first = nn.Sequential(*_front(program))
    features = torch.cat([first(*x) for x in images])
    assert torch.allclose(grown.constants[name], features.mean((0, 2, 3)), atol=1e-5)
    assert error(program, grown) < CLOSE


def _front(program: Program):
    """The first convolution with its batch norm and activation, as modules."""
    weights = program.constants
    layer, norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8).eval()
    with torch.no_grad():
        layer.weight.copy_(weights["constant_0_weight"])
        layer.bias.copy_(weights["constant_0_bias"])
        norm.load_state_dict({k: weights.get(f"constant_1_{k}", torch.tensor(0)) for k in norm.state_dict()})
    return layer.requires_grad_(False), norm.requires_grad_(False), nn.ReLU()


def test_branches_that_end_in_no_layer_stay():
    model = Net(lambda m, x: x + m.layer(x).relu(), layer=nn.Linear(16, 16))
    program = trace(model.eval(), torch.randn(TOKENS))
    grown = deepened(program, kind="block")
    assert grown.text() == program.text()
    assert grown.history[-1].skipped == ("%add: its branch ends in %relu, which is no layer that can start at zero",)


def test_even_kernels_are_followed_by_pointwise_ones():
    program = trace(nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU6(), nn.Conv2d(4, 2, 1)).eval(), torch.randn(1, 3, 5, 5))
    grown = deepened(program)
    assert [x.shape for name, x in grown.constants.items() if name.endswith("_identity")] == [(4, 4, 1, 1)]
    assert error(program, grown) < CLOSE


@given(
    channels=st.sampled_from([4, 8]), groups=st.sampled_from([1, 2, 4]), kernel=st.sampled_from([1, 2, 3, 5]),
    dims=st.sampled_from([1, 2]), bias=st.booleans(), times=st.integers(1, 3),
)  # fmt: skip
def test_any_convolution_can_be_followed(channels, groups, kernel, dims, bias, times):
    kind, norm = (nn.Conv1d, nn.BatchNorm1d) if dims == 1 else (nn.Conv2d, nn.BatchNorm2d)
    layer = kind(4, channels, kernel, padding=kernel // 2, groups=groups, bias=bias)
    program = trace(
        nn.Sequential(layer, batch_norm_of(norm, channels), nn.ReLU()).eval(), torch.randn(2, 4, *[7] * dims)
    )
    grown = deepened(program, times=times)
    assert op_counts(grown)[f"conv{dims}d"] == 1 + times
    assert error(program, grown) < CLOSE


def batch_norm_of(kind, channels):
    norm = kind(channels)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias)
    return norm


def test_scopes_choose_layers():
    grown = PassManager("deepen{only=conv2d_1}").run(resnet())
    assert [row["layer"] for row in grown.history[-1].decisions] == ["conv2d_1"]
    with pytest.raises(InvalidInput, match=r"^ignore must match something that can be deepened, but 'x' does not"):
        PassManager("deepen{ignore=x}").run(program_of("residual"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kind": "x"}, "kind must be 'layer' or 'block', not 'x'"), ({"times": 0}, "times must be at least 1, not 0")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        Deepen(**options)
