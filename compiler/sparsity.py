"""Which weights a CPU reads without their zeros: the form that was measured to be fastest, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .cpu import CpuTarget
from .ops.sparse import block_density

MOST_ROWS = 8
"""Rows up to which a layer is bound by the memory that its weight takes."""
WIDEST = 4
"""Vectors of outputs of the widest panel that sparse kernels have."""


@dataclass(frozen=True)
class Use:
    """What of a layer decides how its weight is best stored.

    `rows` are rows, or pixels, of results. `winograd` says that the dense kernel multiplies less than a plain one.
    """

    linear: bool
    rows: int
    groups: int = 1
    winograd: bool = False


@dataclass(frozen=True)
class Form:
    """How to store a weight: in blocks of r outputs x c inputs, or under a mask where these are 0. `why` is a text."""

    r: int
    c: int
    why: str


def sparse_form(weight: Tensor, uses: Sequence[Use], target: CpuTarget) -> Form | None:
    """The form in which the layers that use a float32 weight are fastest, faster than with the dense one; or None."""
    return _blocks(weight, uses, target) or _masked(weight, uses, target)


def _blocks(weight: Tensor, uses: Sequence[Use], target: CpuTarget) -> Form | None:
    if any(use.groups > 1 for use in uses):
        return None
    known = target.vector.crossovers
    found = []
    for vectors in range(1, WIDEST + 1):
        width = vectors * target.vector.lanes
        limit = known.narrow_blocks if vectors == 1 else known.blocks
        if any(use.winograd for use in uses):
            limit *= known.winograd_blocks / known.blocks
        density = block_density(weight, width)
        found.append((density / limit, width, density, limit))
    cost, width, density, limit = min(found)
    if cost > 1:
        return None
    return Form(width, 1, f"{density:.1%} of its {width}x1 blocks are left, and up to {limit:.0%} are faster than all")


def _masked(weight: Tensor, uses: Sequence[Use], target: CpuTarget) -> Form | None:
    if not all(use.linear and masked_pays(use.rows, weight, target) for use in uses):
        return None
    return Form(0, 0, f"{_left(weight):.1%} of it is left, which a few rows read sooner than all")


def masked_pays(rows: int, weight: Tensor, target: CpuTarget) -> bool:
    """Whether a linear layer of so many rows is faster when it reads a mask and what of its weight is not zero."""
    known = target.vector.crossovers
    cached = 4 * weight.numel() <= target.l2 * target.cores
    return 0 < rows <= MOST_ROWS and _left(weight) <= (known.masked_cached if cached else known.masked)


def _left(weight: Tensor) -> float:
    return float(weight.ne(0).double().mean())


def uses_winograd(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], shape: Sequence[int], target: CpuTarget
) -> bool:
    """Whether the dense kernel of a convolution is Winograd's; `shape` is (batch, height, width, ic, oc) of results."""
    batch, height, width, ic, oc = shape
    if (*kernel, *stride, *dilation) != (3, 3, 1, 1, 1, 1) or min(ic, oc) < 32:
        return False
    tiles = -(-height // 2) * -(-width // 2)
    return batch * tiles >= 12 * target.cores and 3 * tiles <= height * width
