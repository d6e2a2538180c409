"""3-D transposed convolutions become sums of 2-D ones."""

import pytest
import torch
from fxpress.testing import check_pass, op_counts, trace
from torch import nn

X = torch.randn(2, 4, 3, 5, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 1, 2), "stride": (2, 1, 3), "padding": (1, 0, 1), "groups": 2},
        {"kernel_size": 2, "dilation": (2, 3, 1), "bias": False},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": 2, "stride": 3, "output_padding": (2, 0, 1)},
    ],
)
def test_frames_become_images(options):
    after = check_pass("expand-conv-transpose3d", trace(nn.ConvTranspose3d(4, 6, **options), X))
    kernel = options["kernel_size"]
    counts = op_counts(after)
    assert counts["conv_transpose2d"] == (kernel if isinstance(kernel, int) else kernel[0])
    assert "conv_transpose3d" not in counts


def test_unbatched():
    after = check_pass("expand-conv-transpose3d", trace(nn.ConvTranspose3d(4, 6, 3), X[0]))
    assert op_counts(after)["conv_transpose2d"] == 3


def test_computed_weights_stay():
    program = trace(lambda x, w: nn.functional.conv_transpose3d(x, w), X, torch.randn(4, 3, 2, 2, 2))
    assert check_pass("expand-conv-transpose3d", program).text() == program.text()
