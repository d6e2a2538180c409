"""Convolutions with weights that are computed become products with patches."""

import pytest
import torch
import torch.nn.functional as F
from fxpress.testing import check_pass, op_counts, trace
from torch import nn

FORMS = {
    "1d": (F.conv1d, (2, 4, 9), (6, 4, 3), {"padding": 1}),
    "2d": (F.conv2d, (2, 4, 9, 7), (6, 4, 3, 2), {"stride": (2, 1), "dilation": (1, 2)}),
    "2d same": (F.conv2d, (1, 4, 5, 7), (6, 4, 2, 4), {"padding": "same"}),
    "grouped": (F.conv2d, (2, 4, 5, 7), (6, 2, 3, 3), {"groups": 2, "padding": (1, 0)}),
    "depthwise": (F.conv2d, (1, 4, 5, 7), (4, 1, 3, 3), {"groups": 4}),
    "3d": (F.conv3d, (1, 3, 4, 5, 6), (2, 3, 2, 3, 1), {"stride": 2}),
    "unbatched": (F.conv2d, (4, 5, 7), (6, 4, 3, 3), {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_weight_times_patches(form):
    conv, x, w, options = FORMS[form]
    inputs = torch.randn(x), torch.randn(w), torch.randn(w[0])
    after = check_pass("expand-computed-conv", trace(lambda x, w, b: conv(x, w, b, **options), *inputs))
    counts = op_counts(after)
    assert counts["matmul"] == counts["cat"] == 1
    assert not any("conv" in name for name in counts)


def test_constant_weights_stay():
    program = trace(nn.Conv2d(4, 6, 3), torch.randn(1, 4, 5, 5))
    assert check_pass("expand-computed-conv", program).text() == program.text()
