"""A set on which small nets are not perfect: digits, turned, scaled and moved, among pieces of others, in noise.

As in the cluttered MNIST of Mnih et al., "Recurrent Models of Visual Attention", arXiv:1406.6247, but of 32x32. It is
made anew from `samples.digits` whenever it is needed, equal for equal seeds. A digit is in one part only, and so are
the digits that its clutter is cut from.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from samples import digits
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

SIZE = 32
PARTS = {"train": slice(0, 3000), "validation": slice(3000, 4000), "test": slice(4000, 5000)}
"""Digits that are learned from, that a search chooses by, and that only the final judgement sees."""


_digits = functools.cache(digits)


@dataclass(frozen=True)
class Difficulty:
    """How much is in the way."""

    degrees: float = 25.0
    smallest: float = 0.75  # a digit's scale goes from here to 1
    pieces: int = 2
    piece: int = 6  # pixels
    noise: float = 0.1


def images(
    part: str, *, variants: int = 1, seed: int = 0, difficulty: Difficulty | None = None
) -> tuple[Tensor, Tensor]:
    """The digits of one of PARTS, each in so many variants: [n * variants, 1, 32, 32], mean about 0, and labels."""
    chosen = Difficulty() if difficulty is None else difficulty
    pictures, labels = (x[PARTS[part]] for x in _digits())
    random = torch.Generator().manual_seed(1000 * seed + list(PARTS).index(part))
    pictures, labels = pictures.repeat(variants, 1, 1, 1), labels.repeat(variants)
    placed = torch.maximum(_placed(pictures, chosen, random), _clutter(pictures, chosen, random))
    noisy = placed + chosen.noise * torch.randn(placed.shape, generator=random)
    return (noisy - 0.2) / 0.4, labels


def _placed(pictures: Tensor, difficulty: Difficulty, random: torch.Generator) -> Tensor:
    """Each turned, scaled and moved on its own. [n, 1, 28, 28] -> [n, 1, 32, 32]"""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(pictures), generator=random)

    angle = torch.deg2rad(uniform(-difficulty.degrees, difficulty.degrees))
    enlarged = SIZE / 28 / uniform(difficulty.smallest, 1.0)
    cosine, sine = angle.cos() * enlarged, angle.sin() * enlarged
    moved = (uniform(-0.5, 0.5), uniform(-0.5, 0.5))
    rows = [torch.stack(row, 1) for row in ((cosine, -sine, moved[0]), (sine, cosine, moved[1]))]
    grid = affine_grid(torch.stack(rows, 1), [len(pictures), 1, SIZE, SIZE], align_corners=False)
    return grid_sample(pictures, grid, align_corners=False)


def _clutter(pictures: Tensor, difficulty: Difficulty, random: torch.Generator) -> Tensor:
    """Squares out of the middle of other pictures, at random places. [n, 1, 28, 28] -> [n, 1, 32, 32]"""
    n, size = len(pictures), difficulty.piece
    found = torch.zeros(n, 1, SIZE, SIZE)
    offsets = torch.arange(size)
    for _ in range(difficulty.pieces):
        sources = torch.randint(n, (n,), generator=random)
        fetch = torch.randint(4, 24 - size + 1, (2, n), generator=random)
        put = torch.randint(SIZE - size + 1, (2, n), generator=random)
        rows, columns = (x[:, None] + offsets for x in fetch)
        cut = pictures[sources[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
        rows, columns = (x[:, None] + offsets for x in put)
        index = (torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :])
        found[index] = torch.maximum(found[index], cut)
    return found
