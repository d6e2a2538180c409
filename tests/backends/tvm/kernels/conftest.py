"""Run a convolution kernel on random data and compare with PyTorch in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.conv_shape import ConvShape
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.sparse_tiles import SparseTiles
from fxpress.target import Target

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "relu6": lambda x: x.clamp(0, 6),
    "silu": torch.nn.functional.silu,
}
GAP = 3  # elements between pixels' ends in strided views


@dataclass(frozen=True)
class Problem:
    """A convolution in PyTorch's terms; `padding` is (top, bottom, left, right)."""

    batch: int
    height: int
    width: int
    ic: int
    oc: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    activation: str = "none"
    residual: bool = False
    dense: bool = True
    garbage: float = field(default=float("nan"))  # what lies outside of what the kernel may read

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        sides = ((self.height, self.padding[:2]), (self.width, self.padding[2:]))
        return tuple(  # type: ignore[return-value]
            (n + sum(pad) - (k - 1) * d - 1) // s + 1
            for (n, pad), k, d, s in zip(sides, self.kernel, self.dilation, self.stride, strict=True)
        )

    def shape(self) -> ConvShape:
        """The kernel's view of the problem."""
        top, bottom, left, right = self.padding
        gap = 0 if self.dense else GAP
        height, width = self.output
        y = _strides(height, width, self.oc + gap)
        return ConvShape(
            batch=self.batch, height=height, width=width, ic=self.ic, oc=self.oc, kernel=self.kernel,
            stride=self.stride, dilation=self.dilation, padding=(top, left), groups=self.groups,
            x_strides=_strides(self.height + top + bottom, self.width + left + right, self.ic + gap),
            y_strides=y, residual_strides=_strides(height, width, self.oc + 2 * gap) if self.residual else None,
            activation=self.activation,
        )  # fmt: skip


def _strides(height: int, width: int, pixel: int) -> tuple[int, int, int]:
    return height * width * pixel, width * pixel, pixel


def _place(value: np.ndarray, strides: tuple[int, ...], garbage: float) -> tuple[np.ndarray, np.ndarray]:
    """A flat buffer filled with garbage, and a view into its middle that holds `value`."""
    margin = 64
    size = sum((n - 1) * s for n, s in zip(value.shape, (*strides, 1), strict=True)) + 1
    flat = np.full(size + 2 * margin, garbage, np.float32)
    inside = flat[margin:]
    view = np.lib.stride_tricks.as_strided(inside, value.shape, [4 * s for s in (*strides, 1)])
    view[...] = value
    return inside, view


def compare(
    problem: Problem,
    kernel: Any,
    isa: str,
    prepare: Callable | None = None,
    tolerance: float | None = None,
    weight: torch.Tensor | None = None,
) -> None:
    """Run `kernel`; demand PyTorch's accuracy against float64 (or `tolerance`) and writes to the output only."""
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    shape, (height, width) = problem.shape(), problem.output
    top, bottom, left, right = problem.padding
    x = random(problem.batch, problem.height, problem.width, problem.ic)
    weight = random(problem.oc, problem.ic // problem.groups, *problem.kernel) if weight is None else weight
    bias, residual = random(problem.oc), random(problem.batch, height, width, problem.oc)
    padded = torch.nn.functional.pad(x, (0, 0, left, right, top, bottom))

    def reference(dtype: torch.dtype) -> torch.Tensor:
        y = torch.nn.functional.conv2d(
            padded.permute(0, 3, 1, 2).to(dtype), weight.to(dtype), bias.to(dtype),
            problem.stride, 0, problem.dilation, problem.groups,
        ).permute(0, 2, 3, 1)  # fmt: skip
        return ACTIVATIONS[problem.activation](y + residual.to(dtype) if problem.residual else y)

    source, _ = _place(padded.numpy(), shape.x_strides, problem.garbage)
    source = source[top * shape.x_strides[1] + left * shape.x_strides[2] :]
    target_buffer, result = _place(
        np.zeros((problem.batch, height, width, problem.oc), np.float32), shape.y_strides, -7
    )
    parts = kernel.pack_sparse(weight) if isinstance(kernel, SparseTiles) else (kernel.pack(weight),)
    packed = [part.numpy() for part in parts]
    if prepare is not None:
        packed = [prepare(*packed)]
    arrays = [source, *packed, bias.numpy()]
    if problem.residual:
        arrays.append(_place(residual.numpy(), shape.residual_strides, problem.garbage)[0])
    if any(operand.name == "scratch" for operand in kernel.operands()):
        arrays.append(np.full(kernel.scratch_elements, np.nan, np.float32))
    CompiledKernel(kernel, Target.parse(f"cpu{{isa={isa}}}"))(*arrays, target_buffer)
    exact, single = reference(torch.float64), reference(torch.float32)
    scale = exact.norm() + 1e-30
    error = (torch.from_numpy(result.copy()).double() - exact).norm() / scale
    allowed = max(2 * float((single.double() - exact).norm() / scale), 4 * 2.0**-23)
    assert float(error) <= (tolerance or allowed)
    untouched = np.ones_like(target_buffer.base, bool)
    offset = target_buffer.base.size - target_buffer.size
    np.lib.stride_tricks.as_strided(
        untouched[offset:], result.shape, [*shape.y_strides, 1]
    )[...] = False  # fmt: skip
    assert (target_buffer.base[untouched] == -7).all()


@pytest.fixture(params=["avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction-set level that kernels are emitted for."""
    return request.param


@pytest.fixture(scope="session")
def conv_problem() -> type[Problem]:
    """The class of convolution problems (test modules cannot import one another)."""
    return Problem


@pytest.fixture(scope="session")
def compare_conv() -> Callable[..., None]:
    """`compare(problem, kernel, isa)`."""
    return compare
