"""Batch norm folded into what is before it, or into a product and a sum."""

from __future__ import annotations

import torch
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st
from torch import nn


def batch_norm(channels, kind=nn.BatchNorm2d, affine=True):
    norm = kind(channels, affine=affine)
    for tensor in [*norm.parameters(), norm.running_mean]:
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm


def folded(model, *shape, before="normalize-conv,normalize-linear"):
    return check_pass(f"{before},fold-batch-norm", trace(model.eval(), torch.randn(shape)))


@given(
    groups=st.sampled_from([1, 2]), bias=st.booleans(), affine=st.booleans(), transposed=st.booleans(),
    two=st.booleans(),
)  # fmt: skip
def test_into_convolution(groups, bias, affine, transposed, two):
    name = f"Conv{'Transpose' * transposed}{1 + two}d"
    conv = getattr(nn, name)(4, 6, 3, groups=groups, bias=bias)
    norm = batch_norm(6, nn.BatchNorm2d if two else nn.BatchNorm1d, affine)
    program = folded(nn.Sequential(conv, norm), 2, 4, 7, *([5] if two else []))
    assert op_counts(program) == {"conv_transpose" if transposed else "conv": 1}


def test_into_linear():
    assert op_counts(folded(nn.Sequential(nn.Linear(4, 6), batch_norm(6, nn.BatchNorm1d)), 3, 4)) == {"linear": 1}


def test_linear_on_sequences_has_its_channels_elsewhere():
    program = folded(nn.Sequential(nn.Linear(6, 6), batch_norm(6, nn.BatchNorm1d)), 3, 6, 6)
    assert op_counts(program) == {"linear": 1, "mul": 1, "add": 1}


def test_alone():
    assert op_counts(folded(batch_norm(4), 2, 4, 3, 3)) == {"mul": 1, "add": 1}


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), batch_norm(4)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


def test_convolution_used_elsewhere_is_not_computed_twice():
    program = folded(Shared(), 1, 4, 3, 3)
    assert op_counts(program) == {"conv": 1, "mul": 1, "add": 2}
    assert "used elsewhere" in program.history[-1].skipped[0]
