"""A classifier inside of a model: what it computes, how it starts, and the model cut in two at it."""

from __future__ import annotations

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.pass_manager import PassManager
from fxpress.passes.architecture.add_early_exit import AddEarlyExit
from fxpress.passes.architecture.exits import split_at_exit
from fxpress.program import Program
from fxpress.testing import op_counts, trace
from fxpress.verifier import verify
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

IMAGE = (2, 3, 8, 8)


class Skipping(nn.Module):
    """Two values go past the place of the exit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(11, 4)

    def forward(self, x):
        y = self.first(x).relu()
        z = self.second(y).relu() + y
        return self.last(torch.cat([z, x], 1).mean((2, 3)))


def program(model: nn.Module | None = None, *shape: int) -> Program:
    return trace((model or Skipping()).eval(), torch.randn(shape or IMAGE))


def with_exit(before: Program, after: str = "relu", **options) -> Program:
    return PassManager([AddEarlyExit(after, **options)]).run(before)


def test_text(golden):
    golden(with_exit(program()).text())


def test_the_result_stays_and_the_exit_is_first():
    before = program()
    after = with_exit(before)
    early, late = after.run(*before.example_inputs)
    assert torch.equal(late, before.run(*before.example_inputs))
    assert early.shape == late.shape
    assert not early.any()
    assert after.history[-1].rewrites[-1] == "relu: itself becomes itself and an exit 8 -> 4, error 0.0%"


def test_a_second_run_changes_nothing():
    after = with_exit(program())
    again = with_exit(after)
    assert again.text() == after.text()
    assert again.history[-1].skipped == ("%output: the model has an early exit already",)


def test_with_inputs_the_exit_says_what_the_model_says():
    before = program()
    data = [(torch.randn(IMAGE),) for _ in range(40)]
    after = with_exit(before, "second", data=data)
    x = torch.randn(IMAGE)
    early, late = after.run(x)
    assert float((early - late).norm() / late.norm()) < 0.5
    assert 0 < after.history[-1].decisions[0]["output_error"] < 0.5


@pytest.mark.parametrize("place", ["relu", "conv2d", "relu_1", "add"])
def test_two_parts_compute_what_one_does(place):
    after = with_exit(program(), place)
    first, rest = split_at_exit(after)
    verify(first)
    verify(rest)
    x = torch.randn(IMAGE)
    early, *values = first.run(x)
    wanted = after.run(x)
    assert torch.equal(early, wanted[0])
    assert torch.equal(rest.run(*values), wanted[1])
    calls = [sum(op_counts(p).values()) for p in (first, rest, after)]
    assert calls[0] + calls[1] == calls[2]


@given(width=st.integers(1, 9), classes=st.integers(1, 5), tokens=st.booleans())
def test_any_width(width, classes, tokens):
    model = nn.Sequential(nn.Linear(3, width), nn.ReLU(), *([nn.Flatten()] if tokens else []))
    model.append(nn.Linear(4 * width if tokens else width, classes))
    before = program(model, *((2, 4, 3) if tokens else (2, 3)))
    after = with_exit(before)
    assert after.constants["exit_weight"].shape == (classes, width)
    assert [tuple(x.shape) for x in after.run(*before.example_inputs)] == [(2, classes)] * 2


def test_wrong_places_and_models_are_refused():
    with pytest.raises(InvalidInput, match=r"^after must be a node or a module of the model, not 'nothing'"):
        with_exit(program(), "nothing")
    with pytest.raises(InvalidInput, match=r"^after must be a node or a module of the model, not ''"):
        PassManager("add-early-exit").run(program())
    with pytest.raises(InvalidInput, match=r"^a model with an early exit must have one result \[batch, classes\]"):
        with_exit(program(nn.Conv2d(3, 4, 1)))
    with pytest.raises(InvalidInput, match=r"^data must hold at least one item of inputs, but it is empty"):
        with_exit(program(), data=[])
    with pytest.raises(InvalidInput, match=r"^program must have an early exit"):
        split_at_exit(program())


def test_text_of_the_pass_parses_back():
    assert str(PassManager("add-early-exit{after=relu}")) == str(AddEarlyExit("relu")) == "add-early-exit{after=relu}"
