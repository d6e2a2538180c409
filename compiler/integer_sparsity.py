"""Which weights of 8-bit integers a CPU reads without their zeros, by what was measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .cpu import CpuTarget
from .ops.sparse import block_density, weight_matrix
from .sparsity import MOST_ROWS, WIDEST, Form, Use, share_left

STEP = 4
"""Consecutive inputs that kernels multiply at once: the depth of a block."""
PATTERNS = ((1, 4), (4, 16), (2, 4), (4, 8))
"""Of how many consecutive inputs at most how many may be left for the kernel of windows; what stores least first."""
_FIELDS = {4: 2, 8: 4, 16: 4}  # bits that say where in a group a weight is
_FEW = 6  # rows for which shuffling x costs less than reading all of the weight


def integer_form(weight: Tensor, uses: Sequence[Use], target: CpuTarget) -> Form | None:
    """The form in which the layers that use an int8 weight are fastest, faster than with the dense one; or None."""
    if any(use.groups > 1 for use in uses):
        return None
    pattern = find_pattern(weight_matrix(weight))
    pays = pattern is not None and all(pattern_pays(pattern, use.rows, target) for use in uses)
    stored = stored_share(pattern) if pattern is not None and pays else 1.0
    widths = [vectors * target.vector.lanes for vectors in range(1, WIDEST + 1)]
    density, width = min((block_density(weight, width, STEP), width) for width in widths)
    limit = target.vector.crossovers.integer_blocks
    if density <= min(limit, stored):
        blocks = f"{density:.1%} of its {width}x{STEP} blocks are left"
        return Form(width, STEP, f"{blocks}, and up to {limit:.0%} are faster than all")
    if pattern is not None and pays:
        n, m = pattern
        return Form(
            0, 0, f"at most {n} of {m} weights are left, {stored:.1%} of the bytes, and found by a shuffle of x"
        )
    if all(integer_masked_pays(use.rows, weight, use.streamed, target) for use in uses):
        return Form(0, 0, f"{share_left(weight):.1%} of it is left, which a few rows read sooner than all")
    return None


def find_pattern(weight: Tensor) -> tuple[int, int] | None:
    """The first of PATTERNS that the weights [..., k] keep, if any."""
    return next((pattern for pattern in PATTERNS if _keeps(weight, *pattern)), None)


def stored_share(pattern: tuple[int, int]) -> float:
    """Bytes stored for a byte of a dense weight with that pattern."""
    n, m = pattern
    return n * (8 + _FIELDS[m]) / (8 * m)


def pattern_pays(pattern: tuple[int, int], rows: int, target: CpuTarget) -> bool:
    """Whether a weight with that pattern is multiplied faster than a dense one, with so many rows or pixels.

    A step has one dot product and one shuffle in place of two or four dot products, which are one instruction each
    with VNNI. With that, 2:4 takes 0.4 to 0.7 of the time of the dense kernel for one row, 0.7 for four, and more than
    all of it from eight on; 1:4 takes 0.6 for many rows.
    """
    n, m = pattern
    return rows > 0 and (m >= 4 * n or rows <= _FEW or not (target.has("vnni") or target.has("avxvnni")))


def integer_masked_pays(rows: int, weight: Tensor, streamed: bool, target: CpuTarget) -> bool:
    """Whether a layer of so many rows or pixels is faster when it reads a mask and what of its weight is not zero.

    Only with a weight that comes from memory: then it takes 0.7 of the time with half of it left, 0.4 with a fifth.
    """
    if not (streamed and target.has("vbmi2") and 0 < rows <= MOST_ROWS) or len(weight) <= target.vector.lanes // 2:
        return False
    return share_left(weight) <= target.vector.crossovers.integer_masked


def _keeps(weight: Tensor, n: int, m: int) -> bool:
    whole = torch.nn.functional.pad(weight, (0, -weight.shape[-1] % m))
    return bool((whole.reshape(-1, m).count_nonzero(1) <= n).all())
