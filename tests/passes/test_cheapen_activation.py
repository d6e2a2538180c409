"""Activations become cheaper ones that are near."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fxpress.errors import InvalidInput
from fxpress.numerics import relative_error
from fxpress.passes.architecture.cheapen_activation import CHOICES, FUNCTIONS, KEEP, CheapenActivation, difference
from fxpress.testing import check_pass, op_counts, trace
from hypothesis import given
from hypothesis import strategies as st

X = torch.randn(4, 33)


def all_of_them(x):
    return (F.gelu(x) + F.silu(x) + x.sigmoid() + x.tanh() + F.gelu(x, approximate="tanh")).exp()


def test_text(golden):
    golden(check_pass("cheapen-activation", trace(all_of_them, X)).text())


def test_defaults_are_near():
    before = trace(all_of_them, X / 4)
    after = check_pass(CheapenActivation(), before)
    assert op_counts(after) == {"add": 4, "exp": 1, "gelu": 2, "hardsigmoid": 1, "hardswish": 1, "hardtanh": 1}
    assert relative_error(*after.run_flat(X / 4), *before.run_flat(X / 4)) < 0.1
    errors = {row["before"]: row["error"] for row in after.history[-1].decisions}
    assert errors["gelu"] < 1e-3 < errors["silu"] < 0.2
    assert after.history[-1].rewrites[0] == "gelu: gelu becomes gelu_tanh, error 0.0%"


def test_keep_leaves_them():
    before = trace(all_of_them, X)
    after = check_pass(CheapenActivation(gelu=KEEP, silu=KEEP, sigmoid=KEEP, tanh=KEEP), before)
    assert after.text() == before.text()


def test_what_is_the_form_already_stays():
    before = trace(lambda x: F.gelu(x, approximate="tanh") * 2, X)
    after = check_pass("cheapen-activation", before)
    assert after.text() == before.text()
    assert after.history[-1].skipped == ("%gelu: gelu_tanh is to stay",)


def test_outputs_stay():
    before = trace(lambda x: (x * 2).sigmoid(), X)
    after = check_pass("cheapen-activation", before)
    assert after.text() == before.text()
    assert after.history[-1].skipped == ("%sigmoid: it is an output of the model",)


def test_scopes_choose_layers():
    before = trace(lambda x: x.sigmoid() + (x * 2).sigmoid(), X)
    assert op_counts(check_pass(CheapenActivation(ignore="sigmoid_1"), before))["sigmoid"] == 1


def test_other_functions_are_refused():
    with pytest.raises(InvalidInput, match=r"^silu must be one of \['keep', 'hardswish', 'relu'\], not 'gelu'"):
        CheapenActivation(silu="gelu")


@given(st.sampled_from([(kind, name) for kind, names in CHOICES.items() for name in names if name != KEEP]))
def test_every_choice_computes_its_function(choice):
    kind, name = choice
    before = trace(lambda x: FUNCTIONS[kind](x) + 0.5, X)
    after = check_pass(CheapenActivation(**{kind: name}), before)
    assert torch.allclose(after.run(X), FUNCTIONS[name](X) + 0.5, atol=1e-6)
    assert difference(kind, name) > 0
