"""Linear layers and products in one spelling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

W = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
V = torch.randn(7, generator=torch.Generator().manual_seed(2))


def normalized(function, *shapes, passes="fold-constants,normalize-linear"):
    return check_pass(passes, trace(function, *(torch.randn(shape) for shape in shapes)))


CONSTANT_WEIGHT = {
    "linear": (lambda x: F.linear(x, W.T, V), (3, 5)),
    "linear of a row": (lambda x: F.linear(x, W.T, V), (5,)),
    "linear without bias": (lambda x: F.linear(x, W.T), (2, 3, 5)),
    "addmm": (lambda x: torch.addmm(V, x, W), (3, 5)),
    "addmm with a bias row": (lambda x: torch.addmm(V[None], x, W), (3, 5)),
    "mm": (lambda x: torch.mm(x, W), (3, 5)),
    "matmul": (lambda x: x @ W, (2, 3, 5)),
    "matmul of a row": (lambda x: x @ W, (5,)),
    "matmul with a column": (lambda x: x @ V, (2, 3, 7)),
    "dot": (lambda x: x @ V, (7,)),
    "bmm of one": (lambda x: torch.bmm(x, W[None]), (1, 3, 5)),
}


@pytest.mark.parametrize("name", CONSTANT_WEIGHT)
def test_constant_weight_gives_linear(name):
    function, shape = CONSTANT_WEIGHT[name]
    counts = op_counts(normalized(function, shape))
    assert counts.pop("linear") == 1
    assert set(counts) <= {"unsqueeze", "squeeze"}


COMPUTED_WEIGHT = {
    "linear": (lambda x, y: F.linear(x, y), (3, 5), (4, 5)),
    "linear with bias": (lambda x, y: F.linear(x, y, y[:, 0]), (3, 5), (4, 5)),
    "mm": (torch.mm, (3, 5), (5, 4)),
    "bmm": (torch.bmm, (2, 3, 5), (2, 5, 4)),
    "baddbmm": (lambda x, y: torch.baddbmm(x, x, y, beta=0.5, alpha=2), (2, 3, 3), (2, 3, 3)),
    "matmul of rows": (torch.matmul, (5,), (5,)),
    "matmul with a column": (torch.matmul, (2, 3, 5), (5,)),
    "constant on the left": (lambda x: W @ x, (7, 3)),
}


@pytest.mark.parametrize("name", COMPUTED_WEIGHT)
def test_computed_weight_gives_matmul(name):
    function, *shapes = COMPUTED_WEIGHT[name]
    program = normalized(function, *shapes)
    assert op_counts(program)["matmul"] == 1
    product = next(node for node in program.nodes if node.target is torch.ops.aten.matmul.default)
    assert all(operand.meta["val"].dim() >= 2 for operand in product.args)


def test_scaled_addmm_keeps_its_factors():
    counts = op_counts(normalized(lambda x: torch.addmm(V, x, W, beta=0.5, alpha=2), (3, 5), passes="normalize-linear"))
    assert (counts["linear"], counts["mul"], counts["add"]) == (1, 2, 1)


def test_bias_that_is_no_vector_is_added():
    full = torch.randn(3, 7)
    counts = op_counts(normalized(lambda x: torch.addmm(full, x, W), (3, 5)))
    assert counts == {"linear": 1, "add": 1}


def test_integer_product_is_left_alone():
    weight = torch.arange(6).reshape(2, 3)
    program = check_pass("normalize-linear", trace(lambda x: x @ weight, torch.arange(4).reshape(2, 2)))
    assert op_counts(program) == {"matmul": 1}


class Conv1D(nn.Module):
    """The linear layer of GPT-2: weight [k, n], input flattened to a matrix and back."""

    def forward(self, x):
        return torch.addmm(V, x.view(-1, 5), W).view(*x.shape[:-1], 7)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_flattening_around_linear_vanishes(sizes):
    passes = "normalize-linear,unflatten-linear,compose-views"
    counts = op_counts(normalized(Conv1D(), (*sizes, 5), passes=passes))
    assert counts == {"linear": 1}


def test_flattening_stays_where_the_matrix_is_used():
    def function(x):
        y = F.linear(x.reshape(6, 5), W.T)
        return y.reshape(2, 3, 7), y + 1

    program = normalized(function, (2, 3, 5), passes="fold-constants,normalize-linear,unflatten-linear")
    assert not program.history[-1].changed


def test_flattening_of_the_last_dim_stays():
    program = normalized(
        lambda x: F.linear(x.reshape(3, 5), W.T).reshape(1, 3, 7), (3, 1, 5, 1),
        passes="fold-constants,normalize-linear,unflatten-linear",
    )  # fmt: skip
    assert not program.history[-1].changed
