"""Kernels that read float32 weights without their zeros, for linear layers and convolutions alike."""

from __future__ import annotations

import torch

from ....sparsity import are_streamed, masked_pays
from ..kernels.base import Kernel
from ..kernels.conv_shape import ConvShape
from ..kernels.linear_shape import LinearShape, Rows
from ..kernels.masked_linear import MaskedLinear
from ..kernels.sparse_conv import SparseConv
from ..lowering import Lowering
from ..views import View

Choice = tuple[Kernel, tuple[View, ...]]  # a kernel and its weight operands


def sparse_kernel(cx: Lowering, shape: ConvShape, weight: torch.Tensor) -> Choice:
    """The kernel for a weight [oc, ic, kh, kw] stored in blocks. It reads a bias."""
    kernel = SparseConv.choose_sparse(shape, weight, cx.target)
    return kernel, tuple(map(cx.constant, kernel.pack_sparse(weight)))


def masked_kernel(cx: Lowering, shape: LinearShape, weight: torch.Tensor) -> Choice | None:
    """The kernel for a weight [n, k] stored under a mask; None where one for all of it is faster."""
    streamed = cx.cached("streamed", lambda: are_streamed(cx.program, cx.target))
    if not masked_pays(shape.m, weight, streamed, cx.target):
        return None
    kernel = MaskedLinear.choose_masked(shape, cx.target)
    return kernel, tuple(map(cx.constant, kernel.pack_sparse(weight)))


def pixels_as_rows(shape: ConvShape) -> LinearShape | None:
    """A convolution as a linear layer with a bias, where its pixels are rows that lie evenly."""
    flat = shape.flattened()
    if flat.kernel != (1, 1) or flat.groups > 1 or any(flat.padding) or flat.batch * flat.height > 1:
        return None
    residual = flat.residual_strides
    return LinearShape(
        outer=1,
        inner=flat.width,
        n=flat.oc,
        k=flat.ic,
        x=Rows(0, flat.x_strides[2] * flat.stride[1]),
        y=Rows(0, flat.y_strides[2]),
        residual=None if residual is None else Rows(0, residual[2]),
        bias=True,
        activation=flat.activation,
    )
