"""Fourier transforms become matrix products."""

import pytest
import torch
from fxpress.testing import check_pass, op_counts, trace

X = torch.randn(3, 12, 10)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.fft.fft(x).real,
        lambda x: torch.view_as_real(torch.fft.fftn(x, dim=(1, 2))),
        lambda x: torch.fft.rfft(x, dim=1, norm="ortho").imag,
        lambda x: torch.fft.rfft2(x, norm="forward").abs(),
        lambda x: torch.view_as_real(torch.fft.ifft(torch.fft.fft(x), dim=1)),
    ],
)
def test_transforms(function):
    after = check_pass("expand-fft", trace(function, X))
    assert op_counts(after)["linear"] >= 1
    assert not any(node.meta["val"].is_complex() for node in after.nodes if node.op == "call_function")


def test_unused_parts_are_not_computed():
    after = check_pass("expand-fft,drop-no-op,drop-dead-code", trace(lambda x: torch.fft.fft(x).real, X))
    assert op_counts(after)["linear"] <= 2


def test_long_and_complex_transforms_stay():
    for function, x in ((lambda x: torch.fft.rfft(x).abs(), torch.randn(4096)), (lambda x: (x * 1j).abs(), X)):
        before = trace(function, x)
        assert check_pass("expand-fft", before).text() == before.text()
