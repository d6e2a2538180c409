"""3-D convolutions become linear layers of patches or sums of 2-D ones."""

import pytest
import torch
from fxpress.testing import check_pass, op_counts, trace
from torch import nn

X = torch.randn(2, 4, 6, 9, 8)


def test_patches_become_a_linear_layer():
    after = check_pass("expand-conv3d", trace(nn.Conv3d(4, 5, (2, 3, 4), stride=(2, 3, 4)), X))
    assert op_counts(after) == {"linear": 1, "permute": 2, "reshape": 3}


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 1, 2), "stride": (2, 1, 3), "padding": (1, 0, 2), "groups": 2},
        {"kernel_size": 2, "dilation": (2, 3, 1), "bias": False},
        {"kernel_size": (2, 3, 4), "padding": "same"},
        {"kernel_size": 2, "stride": 2},
    ],
)
def test_frames_become_images(options):
    after = check_pass("expand-conv3d", trace(nn.Conv3d(4, 6, **options), X))
    kernel = options["kernel_size"]
    assert op_counts(after)["conv2d"] == (kernel if isinstance(kernel, int) else kernel[0])


def test_unbatched():
    after = check_pass("expand-conv3d", trace(nn.Conv3d(4, 6, 3), X[0]))
    assert op_counts(after)["conv2d"] == 3


def test_transposed_and_computed_weights_stay():
    transposed = trace(nn.ConvTranspose3d(4, 6, 3), X)
    assert check_pass("expand-conv3d", transposed).text() == transposed.text()
    computed = trace(lambda x, w: nn.functional.conv3d(x, w), X, torch.randn(3, 4, 2, 2, 2))
    assert check_pass("expand-conv3d", computed).text() == computed.text()
