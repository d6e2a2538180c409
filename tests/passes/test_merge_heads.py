"""Heads that are alike become one: copies without any error, others with the least that a pair has."""

from __future__ import annotations

import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.numerics import relative_error, run_float64
from fxpress.pass_manager import PassManager
from fxpress.passes.architecture.merge_heads import MergeHeads
from fxpress.program import Program
from fxpress.testing import trace
from hypothesis import given
from hypothesis import strategies as st
from test_remove_units import Net, program_of
from torch import nn
from torch.nn import functional as F

KINDS = ("attention-separate", "attention-merged", "attention-written", "attention-gqa", "torch_attention")


def merged(program: Program, **options) -> Program:
    return PassManager([MergeHeads(**options)]).run(program)


def error(program: Program, other: Program) -> float:
    (found,), (wanted,) = (run_float64(p, program.example_inputs) for p in (other, program))
    return relative_error(found, wanted)


def heads_left(program: Program) -> str:
    return program.history[-1].decisions[0]["after"]


@pytest.mark.parametrize("name", KINDS)
def test_copies_merge_without_error(name):
    """What `widen` copies, merging takes back."""
    program = program_of(name)
    (group,) = [row["layer"] for row in merged(program, ratio=0.5).history[-1].decisions]
    wide = PassManager(f"widen{{only={group}}}").run(program)
    back = merged(wide, ratio=0.5)
    assert back.history[-1].decisions[0]["error"] < 1e-6
    assert error(program, back) < 1e-6
    sizes = [sorted(tuple(x.shape) for x in p.constants.values()) for p in (program, back)]
    assert sizes[0] == sizes[1]


def test_text(golden):
    golden(merged(program_of("attention-merged"), ratio=0.5).text())


def test_the_most_alike_go_together():
    program = program_of("attention-separate")
    for name in ("q", "k", "v"):
        for part in ("weight", "bias"):
            tensor = program.constants[f"{name}_{part}"]
            tensor[15:20] = tensor[5:10] + 0.01 * torch.randn_like(tensor[5:10])
    after = merged(program, ratio=0.25)
    assert heads_left(after) == "3 heads"
    assert any(line.endswith(": 1+3") for line in after.history[-1].rewrites)
    assert error(program, after) < 0.02


def test_what_is_not_alike_stays():
    program = program_of("attention-separate")
    after = merged(program, ratio=0.5, alike=0.9)
    assert after.text() == program.text()
    assert after.history[-1].skipped == ("%linear_1: no heads are to be merged, or none are alike enough",)


def test_one_head_stays():
    def forward(m, x):
        q, k, v = (layer(x)[:, None] for layer in (m.q, m.k, m.v))
        return m.out(F.scaled_dot_product_attention(q, k, v)[:, 0])

    layers = {name: nn.Linear(8, 8) for name in ("q", "k", "v", "out")}
    program = trace(Net(forward, **layers).eval(), torch.randn(2, 5, 8))
    after = merged(program)
    assert after.text() == program.text()
    reason = "its heads depend on what must stay whole, or there is only one"
    assert after.history[-1].skipped == (f"%scaled_dot_product_attention: {reason}",)


def test_scopes_choose_layers():
    program = program_of("attention-separate")
    assert merged(program, ignore="linear_1").text() == program.text()
    with pytest.raises(InvalidInput, match=r"^only must match something that can be merged, but 'x' does not"):
        merged(program, only="x")


def test_ratio_is_a_share():
    with pytest.raises(InvalidInput, match=r"^ratio must be from 0 to 1, not 2"):
        MergeHeads(ratio=2)


@given(ratio=st.floats(0, 1))
def test_as_many_go_as_asked(ratio):
    after = merged(program_of("attention-separate"), ratio=ratio)
    left = max(1, 4 - int(4 * ratio + 1e-9))
    assert after.constants["q_weight"].shape == (5 * left, 12)
