"""Masks that scores cannot take as they lie are prepared once: for all heads and layers, at load where constant."""

from __future__ import annotations

from collections.abc import Callable

import fxpress
import numpy as np
import pytest
import torch
from fxpress.numerics import compare_outputs
from fxpress.testing import trace
from torch.nn.functional import scaled_dot_product_attention as attention

ATTENTION, PREPARED = "attention", "pointwise"


class WithConstantMask(torch.nn.Module):
    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        return attention(q, q, q, attn_mask=self.mask)


def layers(q: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    for _ in range(3):
        q = attention(q, q, q, attn_mask=mask)
    return q


def kernels(model: Callable[..., torch.Tensor], *inputs: torch.Tensor, pipeline: str = "") -> list[str]:
    """Compile, compare with PyTorch, and give the first word of each kernel that a call runs."""
    artifact = fxpress.compile(trace(model, *inputs), pipeline=pipeline, target="cpu", self_test=False)
    found = torch.from_numpy(np.asarray(artifact(*inputs)))
    wide = [x.double() if x.dtype == torch.float32 else x for x in inputs]
    with torch.no_grad():
        expected = model(*inputs)
        reference = (model.double() if isinstance(model, torch.nn.Module) else model)(*wide)
    errors = compare_outputs([found], [expected], [reference])
    assert errors.acceptable, errors
    return [layer["kernel"].split()[0] for layer in artifact.manifest["layers"]]


def seen(*shape: int) -> torch.Tensor:
    """A bool mask that hides no query from every key."""
    mask = torch.rand(*shape) > 0.5
    mask[..., 0] = True
    return mask


MASKS = {"float": torch.randn(19, 19), "bool": seen(19, 19), "batch": seen(2, 1, 19, 19)}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_layers_share_one_prepared_mask(mask: torch.Tensor) -> None:
    assert kernels(layers, torch.randn(2, 3, 19, 8), mask) == [PREPARED] + 3 * [ATTENTION]


@pytest.mark.parametrize("mask", [seen(1, 19), seen(2, 1, 1, 19), torch.randn(1, 19)], ids=["bool", "batch", "float"])
def test_a_mask_of_keys_alone_is_taken_as_it_lies(mask: torch.Tensor) -> None:
    assert kernels(layers, torch.randn(2, 3, 19, 8), mask) == 3 * [ATTENTION]


@pytest.mark.parametrize("mask", [torch.randn(3, 19, 19), seen(19, 19)], ids=["float", "bool"])
def test_a_constant_mask_costs_a_call_nothing(mask: torch.Tensor) -> None:
    assert kernels(WithConstantMask(mask).eval(), torch.randn(2, 3, 19, 8)) == [ATTENTION]


def softmax_of(scores: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return scores.softmax(-1) @ values


SHAPES = [(19,), (2, 1, 1, 19), (19, 1), (1, 3, 19, 19), (2, 1, 19, 19), (3, 19, 19)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_softmax_takes_any_mask(shape: tuple[int, ...]) -> None:
    q, mask = torch.randn(2, 3, 19, 8), torch.randn(shape)
    mask.view(-1)[::4] = -torch.inf
    mask.view(-1)[: shape[-1]] = -torch.inf  # a row without keys: NaN
    forms = [(lambda q, m: softmax_of(q @ q.mT + m, q), mask)]
    for fill in (-1e9, -2.0, -torch.inf):
        forms.append((lambda q, m, fill=fill: softmax_of((q @ q.mT).masked_fill(m, fill), q), mask < -1))
    for form, given in forms:
        assert kernels(form, q, given, pipeline="recognize-attention")[-1] == ATTENTION


def test_what_a_fill_replaces_does_not_matter() -> None:
    q, keep = torch.randn(1, 2, 19, 8), torch.arange(19) != 3
    k = q.clone()
    k[:, :, 3] = torch.inf

    def model(q: torch.Tensor, k: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return softmax_of(torch.where(keep, q @ k.mT, -1e9), q)

    assert kernels(model, q, k, keep, pipeline="recognize-attention") == [ATTENTION]


def test_three_dimensions() -> None:
    assert kernels(layers, torch.randn(2, 19, 8), torch.randn(2, 19, 19)) == [PREPARED] + 3 * [ATTENTION]
