"""Convolutions in one spelling."""

from __future__ import annotations

import pytest
import torch
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st
from torch import nn


def normalized(model: nn.Module, *shape: int):
    return check_pass("normalize-conv", trace(model.eval(), torch.randn(shape)))


def test_program_text():
    program = normalized(nn.Conv2d(4, 6, 3, stride=2, padding=(1, 0), groups=2), 1, 4, 7, 8)
    assert program.text() == (
        "%weight: float32[6, 2, 3, 3] = constant\n"
        "%bias: float32[6] = constant\n"
        "%input_1: float32[1, 4, 7, 8] = input\n"
        "%conv: float32[1, 6, 4, 3] = fxpress.conv.default(%input_1, %weight, %bias, None, [2, 2], [1, 1, 0, 0], "
        "[1, 1], 2, 'none', False)\n"
        "return %conv\n"
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel", "dilation"), [(4, 1), (3, 2), (2, 3)])
def test_padding_by_name(padding, kernel, dilation):
    model = nn.Conv2d(3, 5, kernel, padding=padding, dilation=dilation)
    assert op_counts(normalized(model, 2, 3, 9, 10))["conv"] == 1


@given(
    size=st.integers(5, 13), stride=st.integers(1, 3), padding=st.integers(0, 2), dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 3]), batched=st.booleans(),
)  # fmt: skip
def test_one_dimension(size, stride, padding, dilation, groups, batched):
    model = nn.Conv1d(3, 6, 3, stride=stride, padding=padding, dilation=dilation, groups=groups)
    program = normalized(model, *([2] if batched else []), 3, size)
    assert op_counts(program)["conv"] == 1


@given(
    stride=st.integers(1, 3), padding=st.integers(0, 2), groups=st.sampled_from([1, 2]), batched=st.booleans(),
    two=st.booleans(),
)  # fmt: skip
def test_transposed(stride, padding, groups, batched, two):
    kind = nn.ConvTranspose2d if two else nn.ConvTranspose1d
    model = kind(4, 6, 3, stride=stride, padding=padding, output_padding=stride - 1, groups=groups)
    program = normalized(model, *([2] if batched else []), 4, 5, *([7] if two else []))
    assert op_counts(program)["conv_transpose"] == 1


def test_three_dimensions_are_left_alone():
    program = normalized(nn.Conv3d(2, 2, 2), 1, 2, 4, 4, 4)
    assert "conv" not in op_counts(program)
    assert "one or two spatial dims, not 3" in program.history[-1].skipped[0]
