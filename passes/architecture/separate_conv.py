"""conv(x, w, b)  ->  conv1x1(depthwise_conv(x, d), p, b), with p and d nearest to w

Guo et al., "Network Decoupling: From Regular to Depthwise Separable Convolutions", arXiv:1808.05517, section 3: the
taps of one input channel for all outputs are a matrix [oc, taps], whose best approximation of rank t (by its singular
values) is t depthwise kernels and what they are weighted with. With as many terms as taps it is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from ...errors import InvalidInput
from ...rewriter import Rewriter
from ...search.ranges import Range, search
from ..match import arguments
from .replacing import (
    CONVOLUTIONS,
    Cost,
    ReplaceLayers,
    Replacement,
    convolve,
    image,
    places,
    relative,
    why_not_weight,
    window,
)


@dataclass(frozen=True)
class SeparateConv(ReplaceLayers):
    """conv(x, w, b)  ->  conv1x1(depthwise_conv(x, d), p, b), with `terms` depthwise kernels a channel

    Raises InvalidInput unless `terms` is at least 1.
    """

    name: ClassVar[str] = "separate-conv"
    ops = tuple(CONVOLUTIONS)
    terms: int = field(default=1, metadata=search(Range(1, 3)))

    def __post_init__(self) -> None:
        if self.terms < 1:
            raise InvalidInput(f"terms must be at least 1, not {self.terms!r}")

    def replacements(self, nodes: Sequence[Node], rw: Rewriter) -> Iterator[tuple[Node, Replacement | str]]:
        return ((node, self._replacement(node, rw)) for node in nodes)

    def _replacement(self, node: Node, rw: Rewriter) -> Replacement | str:
        a = arguments(node)
        if a["groups"] != 1:
            return f"it has {a['groups']} groups already"
        reason = why_not_weight(rw.program, node)
        if reason is not None:
            return reason
        weight = rw.program.constant(a["weight"])
        oc, ic, *kernel = weight.shape
        taps = weight[0, 0].numel()
        if taps == 1:
            return "its kernel has one tap: it is pointwise already"
        depthwise, pointwise, error = separate(weight, min(self.terms, taps, oc))
        sizes = depthwise.numel() + pointwise.numel()
        count = places(node, image(node))

        def build(rw: Rewriter) -> Node:
            name = a["weight"].target
            parts = rw.constant(f"{name}_depthwise", depthwise), rw.constant(f"{name}_pointwise", pointwise)
            inner = convolve(rw, node, a["input"], parts[0], **window(node), groups=ic)
            return convolve(rw, node, inner, parts[1], a["bias"])

        text = "x".join(map(str, kernel))
        return Replacement(
            f"{ic} -> {oc} of {text}", f"depthwise {text} and {len(pointwise[0])} -> {oc}",
            (Cost(weight.numel(), weight.numel() * count), Cost(sizes, sizes * count)), error, build,
        )  # fmt: skip


def separate(weight: Tensor, terms: int) -> tuple[Tensor, Tensor, float]:
    """Depthwise kernels [ic * terms, 1, *kernel], weights [oc, ic * terms, 1, ...], relative error of their product.

    Both factors get the same share of each singular value, so that they train alike.
    """
    oc, ic, *kernel = weight.shape
    left, values, right = torch.linalg.svd(weight.double().reshape(oc, ic, -1).transpose(0, 1), full_matrices=False)
    roots = values[:, :terms].sqrt()
    pointwise = (left[:, :, :terms] * roots[:, None]).permute(1, 0, 2).reshape(oc, ic * terms)
    depthwise = (roots[:, :, None] * right[:, :terms]).reshape(ic * terms, 1, *kernel)
    error = relative(values[:, terms:], values)
    pointwise = pointwise.reshape(*pointwise.shape, *[1] * len(kernel))
    return depthwise.to(weight.dtype).contiguous(), pointwise.to(weight.dtype).contiguous(), error
