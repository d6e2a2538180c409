"""Definitions of weights stored without their zeros: ops that give the dense weight, and what packs one for them.

A weight [n, k], or [oc, ic, *kernel], is a matrix of outputs by inputs whose columns run over the kernel and, fastest,
over the input channels. All is of any dtype; a zero is what equals 0, so -0 comes back as 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .library import define

_BYTE = 8


@define("unpack_blocks(Tensor values, Tensor columns, Tensor pointers, int[] shape) -> Tensor")
def _unpack_blocks(values: Tensor, columns: Tensor, pointers: Tensor, shape: Sequence[int]) -> Tensor:
    """The weight of that shape whose matrix has the blocks `values` [blocks, r, c] and is zero elsewhere.

    Row i of blocks, outputs i * r and on, has those numbered pointers[i] to pointers[i + 1] - 1; `columns` says which
    column of blocks each is, ascending in a row. Both are int32. What lies beyond the matrix is dropped.
    """
    count, r, c = values.shape
    n, k = matrix_shape(shape)
    numbers = torch.arange(count, dtype=pointers.dtype, device=pointers.device)
    rows = torch.searchsorted(pointers, numbers, right=True) - 1
    blocks = values.new_zeros(-(-n // r), -(-k // c), r, c).index_put((rows, columns.to(torch.int64)), values)
    return from_matrix(blocks.transpose(1, 2).flatten(2).flatten(0, 1)[:n, :k], shape)


@define("unpack_masked(Tensor values, Tensor mask, int[] shape) -> Tensor")
def _unpack_masked(values: Tensor, mask: Tensor, shape: Sequence[int]) -> Tensor:
    """The weight of that shape whose matrix has `values`, in row-major order, where bits of `mask` are set.

    Bit i % 8 of byte i // 8 of `mask`, uint8, belongs to element i. Elsewhere the weight is zero.
    """
    n, k = matrix_shape(shape)
    bits = mask.unsqueeze(1).bitwise_right_shift(_bits(mask)).bitwise_and(1)
    return from_matrix(values.new_zeros(n * k).masked_scatter(bits.flatten()[: n * k] != 0, values).view(n, k), shape)


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the matrix of a weight of that shape."""
    n, k = shape[0], 1
    for size in shape[1:]:
        k *= size
    return n, k


def weight_matrix(weight: Tensor) -> Tensor:
    """The matrix [outputs, inputs] of a weight."""
    return weight.movedim(1, -1).flatten(1)


def block_density(weight: Tensor, r: int, c: int = 1) -> float:
    """The share of the blocks of r outputs x c inputs of one tap of the kernel that are not all zero."""
    held = weight.ne(0).movedim(1, -1)
    steps = F.pad(held, (0, -held.shape[-1] % c)).unflatten(-1, (-1, c)).any(-1).flatten(1)  # type: ignore[no-untyped-call]
    panels = F.pad(steps, (0, 0, 0, -len(steps) % r)).reshape(-1, r, steps.shape[1])
    return float(panels.any(1).double().mean())


def pack_blocks(weight: Tensor, r: int, c: int) -> tuple[Tensor, Tensor, Tensor]:
    """The values, columns and pointers of the r x c blocks of `weight` that are not all zero."""
    matrix = weight_matrix(weight)
    n, k = matrix.shape
    padded = F.pad(matrix, (0, -k % c, 0, -n % r))
    blocks = padded.reshape(-(-n // r), r, -(-k // c), c).transpose(1, 2)
    held = (blocks != 0).flatten(2).any(2)
    pointers = F.pad(held.sum(1).cumsum(0), (1, 0))
    return blocks[held].contiguous(), held.nonzero()[:, 1].to(torch.int32), pointers.to(torch.int32)


def pack_masked(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The values of `weight` that are not zero, and the mask that says where they belong."""
    elements = weight_matrix(weight).flatten()
    held = elements != 0
    bits = F.pad(held, (0, -len(held) % _BYTE)).view(-1, _BYTE).to(torch.uint8)
    return elements[held], bits.bitwise_left_shift(_bits(bits)).sum(1, dtype=torch.uint8)


def _bits(like: Tensor) -> Tensor:
    return torch.arange(_BYTE, dtype=torch.uint8, device=like.device)


def from_matrix(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """The weight of that shape that has this matrix."""
    n, inputs, *kernel = shape
    return matrix.reshape(n, *kernel, inputs).movedim(-1, 1).contiguous()
