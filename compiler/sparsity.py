"""Which weights a CPU reads without their zeros: the form that was measured to be fastest, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .cpu import CpuTarget
from .ops import fxpress
from .ops.sparse import block_density
from .program import Program

MOST_ROWS = 8
"""Rows up to which a layer is bound by the memory that its weight takes."""
WIDEST = 4
"""Vectors of outputs of the widest panel that sparse kernels have."""
UNPACK = (fxpress.unpack_blocks.default, fxpress.unpack_masked.default)


@dataclass(frozen=True)
class Use:
    """What of a layer decides how its weight is best stored.

    `linear` says that each row of results is made of one row, or pixel, of inputs, and `rows` is their number.
    `winograd` says that the dense kernel multiplies less than a plain one, `streamed` that weights come from memory
    each time (`are_streamed`).
    """

    linear: bool
    rows: int
    groups: int = 1
    winograd: bool = False
    streamed: bool = False


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
    if not all(use.linear and masked_pays(use.rows, weight, use.streamed, target) for use in uses):
        return None
    return Form(0, 0, f"{share_left(weight):.1%} of it is left, which a few rows read sooner than all")


def masked_pays(rows: int, weight: Tensor, streamed: bool, target: CpuTarget) -> bool:
    """Whether a linear layer of so many rows is faster when it reads a mask and what of its weight is not zero."""
    known = target.vector.crossovers
    return 0 < rows <= MOST_ROWS and share_left(weight) <= (known.masked if streamed else known.masked_cached)


def are_streamed(program: Program, target: CpuTarget) -> bool:
    """Whether the second caches cannot hold all constants of a Program, zeros included, from one run to the next."""
    size = 0
    for node in program.nodes:
        held = node.op == "get_attr" and not any(user.target in UNPACK for user in node.users)
        if held or node.target in UNPACK:
            size += node.meta["val"].numel() * node.meta["val"].element_size()
    return size > target.l2 * target.cores


def share_left(weight: Tensor) -> float:
    """The share of a weight that is not zero."""
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
