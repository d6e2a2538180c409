"""Networks of every kind made wider compute what they did; what cannot be copied says why."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.errors import InvalidInput
from fxpress.numerics import relative_error, run_float64
from fxpress.pass_manager import PassManager
from fxpress.passes.growth.widen import Widen
from fxpress.program import Program
from fxpress.testing import trace
from hypothesis import given
from hypothesis import strategies as st
from test_remove_units import NETWORKS, parameters, program_of
from torch import nn

CLOSE = 1e-6
"""In float64 what is left are shares of weights rounded to float32."""


def widened(program: Program, **options) -> Program:
    return PassManager([Widen(**options)]).run(program)


def error(program: Program, grown: Program) -> float:
    (found,), (wanted,) = (run_float64(p, program.example_inputs) for p in (grown, program))
    return relative_error(found, wanted)


def mlp(*middle: nn.Module, width: int = 6) -> Program:
    return trace(nn.Sequential(nn.Linear(4, width), *middle, nn.Linear(width, 3)).eval(), torch.randn(5, 4))


@pytest.mark.parametrize("name", NETWORKS)
def test_computes_the_same(name):
    program = program_of(name)
    grown = widened(program, ratio=2.0, noise=0.2)
    assert error(program, grown) < CLOSE
    assert parameters(grown) > 1.3 * parameters(program)
    partly = widened(program, ratio=1.5)
    assert error(program, partly) < CLOSE
    assert parameters(program) < parameters(partly) < parameters(grown)


def test_text(golden):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    golden(widened(trace(model.eval(), torch.randn(1, 3, 6, 6)), ratio=1.5).text())


def test_half_of_each_weight_without_noise():
    program = mlp(nn.ReLU())
    grown = widened(program)
    last, old = grown.constants["constant_2_weight"], program.constants["constant_2_weight"]
    assert last.shape == (3, 12)
    assert torch.equal(last, old.repeat_interleave(2, 1) / 2)
    first = grown.constants["constant_0_weight"]
    assert torch.equal(first[0::2], first[1::2])
    assert "linear: 6 units become 12 units" in grown.history[-1].rewrites


def test_noise_tells_copies_apart_but_adds_up():
    program = mlp(nn.ReLU())
    grown = widened(program, noise=0.5, seed=3)
    last, old = grown.constants["constant_2_weight"], program.constants["constant_2_weight"]
    assert not torch.allclose(last[:, 0::2], last[:, 1::2])
    assert torch.allclose(last[:, 0::2] + last[:, 1::2], old, atol=1e-6)
    again = widened(program, noise=0.5, seed=3)
    assert torch.equal(last, again.constants["constant_2_weight"])
    assert not torch.equal(last, widened(program, noise=0.5, seed=4).constants["constant_2_weight"])


def test_gradients_of_copies_differ_with_noise():
    grown = widened(mlp(nn.ReLU()), noise=0.5)
    first = grown.constants["constant_0_weight"].clone().requires_grad_()
    last = grown.constants["constant_2_weight"]
    x = torch.randn(8, 4)
    F.linear(F.relu(F.linear(x, first)), last).square().sum().backward()
    assert not torch.allclose(first.grad[0::2], first.grad[1::2])


class Gram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(5, 3)

    def forward(self, x):
        y = self.first(x)
        return self.last(y @ y.transpose(-1, -2))


class Transposed(nn.Module):
    """x @ w.T with a stored w."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(3, 6))

    def forward(self, x):
        return (x @ self.first.T).relu() @ self.last.T


class Reduced(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 6), nn.Linear(6, 3), function

    def forward(self, x):
        y = self.first(x).relu()
        return self.last(y) * self.function(y)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)

    def forward(self, ids):
        return F.linear(self.table(ids).relu(), self.table.weight)


@pytest.mark.parametrize(
    ("make", "inputs", "ratio", "reason"),
    [
        (Gram, torch.randn(5, 4), 2.0, "products of two computed values are summed up over its units"),
        (lambda: Reduced(lambda y: y.sum(-1, keepdim=True)), torch.randn(5, 4), 2.0, "would count copies"),
        (lambda: Reduced(lambda y: y.mean(-1, keepdim=True)), torch.randn(5, 4), 1.5, "must be a whole number"),
        (
            lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)), torch.randn(5, 4), 1.5,
            "must be a whole number",
        ),
        (
            lambda: nn.Sequential(nn.Conv1d(4, 6, 1), nn.GroupNorm(1, 6), nn.Conv1d(6, 3, 1)), torch.randn(5, 4, 2),
            1.5, "must be a whole number",
        ),
        (Tied, torch.randint(0, 11, (2, 3)), 2.0, "read both by what sums up over its units and by what does not"),
        (
            lambda: nn.Sequential(nn.Conv1d(4, 6, 1), nn.ConvTranspose1d(6, 4, 1, groups=2), nn.Conv1d(4, 3, 1)),
            torch.randn(1, 4, 5), 2.0, "is a transposed convolution in groups",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(1, 3), nn.Linear(6, 3)), torch.randn(2, 3, 4), 1.5,
            "must be a whole number",
        ),
    ],
    ids=["gram", "sum", "mean", "layer norm", "group norm", "tied", "transposed groups", "group norm of positions"],
)  # fmt: skip
def test_what_copies_would_change_keeps_its_width(make, inputs, ratio, reason):
    program = trace(make().eval(), inputs)
    grown = widened(program, ratio=ratio)
    assert any(reason in line for line in grown.history[-1].skipped), grown.history[-1].skipped
    assert error(program, grown) < CLOSE


@pytest.mark.parametrize("function", [lambda y: y.amax(-1, keepdim=True), lambda y: y.mean(-1, keepdim=True)])
def test_reductions_that_copies_do_not_change(function):
    program = trace(Reduced(function).eval(), torch.randn(5, 4))
    grown = widened(program)
    assert grown.history[-1].changed
    assert error(program, grown) < CLOSE


def test_transposed_weights_are_copied_and_split():
    program = trace(Transposed(), torch.randn(5, 4))
    grown = widened(program)
    assert {name: tuple(x.shape) for name, x in grown.constants.items()} == {"first": (12, 4), "last": (3, 12)}
    assert error(program, grown) < CLOSE


def test_outputs_keep_their_width_and_say_so():
    grown = widened(trace(nn.Linear(4, 5), torch.randn(2, 4)))
    assert not grown.history[-1].changed
    assert any("an output of the model" in line for line in grown.history[-1].skipped)


def test_scopes_choose_layers():
    program = program_of("flattened")
    grown = PassManager("widen{only=linear}").run(program)
    assert [row["layer"] for row in grown.history[-1].decisions] == ["linear"]
    rest = PassManager("widen{ignore=linear}").run(program)
    assert [row["layer"] for row in rest.history[-1].decisions] == ["conv2d"]
    with pytest.raises(InvalidInput, match=r"^only must match something that can be widened, but 'nothing' does not"):
        PassManager("widen{only=nothing}").run(program)


def test_ratio_of_one_changes_nothing():
    program = program_of("residual")
    assert widened(program, ratio=1.0).text() == program.text()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ratio": 0.5}, "ratio must be at least 1"), ({"noise": -1.0}, "noise must be at least 0")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        Widen(**options)


@given(width=st.integers(2, 9), ratio=st.floats(1, 3.5), noise=st.sampled_from([0.0, 0.4]), seed=st.integers(0, 9))
def test_any_ratio_computes_the_same(width, ratio, noise, seed):
    program = mlp(nn.BatchNorm1d(width), nn.GELU(), width=width)
    grown = widened(program, ratio=ratio, noise=noise, seed=seed)
    assert grown.constants["constant_0_weight"].shape == (max(width, round(ratio * width)), 4)
    assert error(program, grown) < CLOSE


def test_text_of_the_pass_parses_back():
    text = "widen{ratio=1.5,seed=2,only=a.b|c}"
    assert str(PassManager(text)) == text
    assert str(Widen(ratio=1.5, seed=2, only=["a.b", "c"])) == text
