"""Transposed convolution against PyTorch in float64, on both instruction-set levels."""

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.conv_shape import ConvShape
from fxpress.backends.tvm.kernels.conv_transpose import ConvTranspose
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.target import Target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def _dense(height, width, channels):
    return height * width * channels, width * channels, channels


def _compare(batch, height, width, ic, oc, kernel, stride, padding, output_padding, dilation, groups, residual, isa):
    extent = [
        (n - 1) * s - 2 * p + d * (k - 1) + o + 1
        for n, s, p, d, k, o in zip((height, width), stride, padding, dilation, kernel, output_padding, strict=True)
    ]
    if min(extent) < 1:
        return
    y_strides = _dense(*extent, oc)
    shape = ConvShape(
        batch=batch, height=extent[0], width=extent[1], ic=ic, oc=oc, kernel=kernel, stride=stride, dilation=dilation,
        padding=padding, groups=groups, x_strides=(0, 0, 0), y_strides=y_strides,
        residual_strides=y_strides if residual else None, activation="relu",
    )  # fmt: skip
    (top, bottom), (left, right) = ConvTranspose.reads(shape)
    before, after = (-top, -left), (max(0, bottom - height + 1), max(0, right - width + 1))
    x = torch.randn(batch, height, width, ic)
    weight, bias = torch.randn(ic, oc // groups, *kernel), torch.randn(oc)
    padded = torch.nn.functional.pad(x, (0, 0, before[1], after[1], before[0], after[0])).contiguous().numpy()
    strides = _dense(*padded.shape[1:])
    shape = ConvShape(**{**shape.__dict__, "x_strides": strides})
    kernel_ = ConvTranspose.choose(shape, Target.parse(f"cpu{{isa={isa},cores=2}}"))
    extra = torch.randn(batch, *extent, oc)
    y = np.full((batch, *extent, oc), np.nan, np.float32)
    arrays = [padded.reshape(-1)[before[0] * strides[1] + before[1] * strides[2] :], kernel_.pack(weight).numpy()]
    CompiledKernel(kernel_, Target.parse(f"cpu{{isa={isa}}}"))(
        *arrays, bias.numpy(), *([extra.numpy()] if residual else []), y
    )

    def reference(dtype):
        out = torch.nn.functional.conv_transpose2d(
            x.permute(0, 3, 1, 2).to(dtype), weight.to(dtype), bias.to(dtype), stride, padding, output_padding, groups,
            dilation,
        ).permute(0, 2, 3, 1)  # fmt: skip
        return torch.relu(out + extra.to(dtype) if residual else out)

    exact, single = reference(torch.float64), reference(torch.float32)
    scale = exact.norm() + 1e-30
    allowed = max(2 * float((single.double() - exact).norm() / scale), 4 * 2.0**-23)
    assert float((torch.from_numpy(y).double() - exact).norm() / scale) <= allowed


CASES = {
    "double": dict(kernel=(2, 2), stride=(2, 2), padding=(0, 0), output_padding=(0, 0), dilation=(1, 1), groups=1),
    "smooth": dict(kernel=(4, 4), stride=(2, 2), padding=(1, 1), output_padding=(0, 0), dilation=(1, 1), groups=1),
    "line": dict(kernel=(1, 16), stride=(1, 8), padding=(0, 4), output_padding=(0, 0), dilation=(1, 1), groups=1),
    "gaps": dict(kernel=(1, 1), stride=(3, 2), padding=(0, 0), output_padding=(2, 1), dilation=(1, 1), groups=2),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_conv_transpose_matches_pytorch(case, isa):
    height = 1 if case["kernel"][0] == 1 and case["stride"][0] == 1 else 5
    _compare(batch=2, height=height, width=6, ic=8, oc=20, residual=True, isa=isa, **case)


@given(data=st.data(), isa=st.sampled_from(["avx2", "avx512"]))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_conv_transpose_property(data, isa):
    side = st.sampled_from([1, 2, 3])
    pair = lambda strategy: (data.draw(strategy), data.draw(strategy))  # noqa: E731
    stride, dilation, groups = pair(side), pair(side), data.draw(st.sampled_from([1, 2]))
    _compare(
        batch=1,
        height=data.draw(st.integers(1, 5)),
        width=data.draw(st.integers(1, 7)),
        ic=groups * data.draw(st.sampled_from([1, 5])),
        oc=groups * data.draw(st.sampled_from([1, 7, 16])),
        kernel=pair(side),
        stride=stride,
        padding=pair(st.integers(0, 2)),
        output_padding=tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)),
        dilation=dilation,
        groups=groups,
        residual=data.draw(st.booleans()),
        isa=isa,
    )
