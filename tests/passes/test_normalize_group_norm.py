"""Group and instance normalisation in one spelling."""

from __future__ import annotations

import pytest
import torch
from fxpress.testing import check_pass, op_counts, trace
from torch import nn


@pytest.mark.parametrize("model", [nn.GroupNorm(2, 4), nn.GroupNorm(4, 4, affine=False), nn.InstanceNorm2d(4)])
def test_group_norm(model):
    program = check_pass("normalize-group-norm", trace(model.eval(), torch.randn(2, 4, 3, 5)))
    assert op_counts(program, full_names=True) == {"fxpress.group_norm.default": 1}
