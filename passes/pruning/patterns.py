"""Where a weight may have zeros: anywhere, all but N of M inputs, or in blocks; and the choice of what matters least.

A weight is looked at as the matrix [outputs, inputs] of `ops.sparse.weight_matrix`: a convolution's inputs run over the
kernel and, fastest, over the channels. A *candidate* is what becomes zero as a whole: a weight, or a block of them.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...cpu import CpuTarget
from ...errors import InvalidInput
from ...target import Target

UNITS, ELEMENTS, BLOCKS = "units", "elements", "blocks"
BLOCK_INPUTS = 4
"""Inputs of a block where the target chooses: what a dot product of 8-bit integers takes at once. In float32 the block
is that many vectors of outputs."""
MOST = 2**16
"""The largest number in a pattern."""


class Pattern(ABC):
    """Which weights of a matrix [outputs, inputs] become zero together, and how many do."""

    @property
    @abstractmethod
    def ratio(self) -> float | None:
        """The share of zeros that the pattern itself says, None where that is to be chosen."""

    @property
    @abstractmethod
    def period(self) -> int:
        """Inputs after a multiple of which the choice can be made apart from that before it."""

    @abstractmethod
    def total(self, values: Tensor) -> Tensor:
        """The sum over each candidate of one value a weight, [outputs, inputs]."""

    @abstractmethod
    def spread(self, gone: Tensor, n: int, k: int) -> Tensor:
        """Which weights [n, k] the candidates `gone` hold."""

    @abstractmethod
    def choose(self, scores: Tensor, count: int, share: float) -> Tensor:
        """Those candidates that go, of least score, the later of equals: `count` of them, or the pattern's own number.

        `share` is how much of what goes in the end is to be gone.
        """


@dataclass(frozen=True)
class Blocks(Pattern):
    """Zeros in blocks of `rows` outputs x `columns` inputs; a single weight is the block 1x1.

    The least important of a layer go, wherever they are: rows of blocks may keep different numbers of them, which costs
    no quality and no time, for kernels share out blocks, not rows. Blocks at the edges may be smaller.
    """

    rows: int = 1
    columns: int = 1

    @property
    def ratio(self) -> float | None:
        return None

    @property
    def period(self) -> int:
        return self.columns

    def total(self, values: Tensor) -> Tensor:
        n, k = values.shape
        padded = F.pad(values, (0, -k % self.columns, 0, -n % self.rows))
        n, k = padded.shape
        return padded.reshape(n // self.rows, self.rows, k // self.columns, self.columns).sum((1, 3))

    def spread(self, gone: Tensor, n: int, k: int) -> Tensor:
        return gone.repeat_interleave(self.rows, 0)[:n].repeat_interleave(self.columns, 1)[:, :k]

    def choose(self, scores: Tensor, count: int, share: float) -> Tensor:
        return (_ranks(scores.reshape(1, -1)) < count).reshape(scores.shape)


@dataclass(frozen=True)
class NofM(Pattern):
    """`keep` of `of` consecutive inputs of each output stay. Of a shorter group at the end that share, rounded up."""

    keep: int
    of: int

    @property
    def ratio(self) -> float | None:
        return 1 - self.keep / self.of

    @property
    def period(self) -> int:
        return self.of

    def total(self, values: Tensor) -> Tensor:
        return values

    def spread(self, gone: Tensor, n: int, k: int) -> Tensor:
        return gone

    def choose(self, scores: Tensor, count: int, share: float) -> Tensor:
        n, k = scores.shape
        each = math.floor(share * (self.of - self.keep) + 1e-9)
        groups = F.pad(scores, (0, -k % self.of), value=torch.inf).reshape(n, -1, self.of)
        gone = torch.full((groups.shape[1], 1), each)
        gone[k // self.of :] = k % self.of * each // self.of
        return (_ranks(groups) < gone).flatten(1)[:, :k]


def _ranks(scores: Tensor) -> Tensor:
    """The place of each along the last dim in ascending order, the later first of equals."""
    size = scores.shape[-1]
    order = size - 1 - scores.flip(-1).argsort(stable=True, dim=-1)
    return torch.empty_like(order).scatter_(-1, order, torch.arange(size).expand_as(order))


def parse_pattern(text: Any, target: Target | None = None) -> Pattern | None:
    """The Pattern that a text means; None for "units", or for "blocks" without a target to choose them for.

    Raises InvalidInput for anything else, and for "blocks" and a target that has no vectors.
    """
    if text == UNITS or (text == BLOCKS and target is None):
        return None
    if text == ELEMENTS:
        return Blocks()
    if text == BLOCKS:
        if not isinstance(target, CpuTarget):
            raise InvalidInput(f"pattern must name its blocks, such as '16x4', for the target {target}, not 'blocks'")
        return Blocks(target.vector.lanes, BLOCK_INPUTS)
    match = re.fullmatch(r"([1-9]\d{0,4})([:x])([1-9]\d{0,4})", text) if isinstance(text, str) else None
    if match is None or max(first := int(match[1]), second := int(match[3])) > MOST:
        raise InvalidInput(
            f"pattern must be 'units', 'elements', 'blocks', N:M such as '2:4' or RxC such as '16x4', not {text!r}"
        )
    if match[2] == "x":
        return Blocks(first, second)
    if first >= second:
        raise InvalidInput(f"pattern N:M must keep fewer than all, N < M, not {text!r}")
    return NofM(first, second)
