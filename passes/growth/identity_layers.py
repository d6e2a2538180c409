"""Layers that compute the identity: Dirac convolutions, identity matrices, batch norms that undo themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from ...program import Program
from ...rewriter import Rewriter
from ..architecture.low_rank import Moments
from ..architecture.replacing import CONVOLUTIONS, convolve
from ..match import arguments, call_again, is_call, only_user, shape

aten = torch.ops.aten

LAYERS = (*CONVOLUTIONS, aten.linear.default)
IDEMPOTENT = frozenset({aten.relu.default, aten.hardtanh.default, aten.clamp.default})
"""Activations that change nothing a second time."""


@dataclass(frozen=True)
class End:
    """How a layer's block ends: the batch norm behind it, if any, and the activation."""

    norm: Node | None
    activation: Node


def end_of_block(layer: Node) -> End | str:
    """The end of a layer's block, or why an identity cannot follow it."""
    after = only_user(layer)
    norm = after if is_call(after, aten.batch_norm.default) else None
    activation = after if norm is None else only_user(norm)
    if norm is not None and arguments(norm)["training"]:
        return "its batch norm is training"
    if not is_call(activation, *IDEMPOTENT):
        return "no idempotent activation follows it, such as relu; add a branch with kind=block"
    return End(norm, activation)


def add_identity(
    layer: Node, end: End, times: int, moments: dict[Node, Moments] | None, rw: Rewriter
) -> None:  # fmt: skip
    """Follow a layer's block by blocks of its kind that compute the identity."""
    y = call_again(end.activation, rw)
    for _ in range(times):
        z = _identity(layer, y, end.activation, rw)
        if end.norm is not None:
            z = _norm(end, z, None if moments is None else moments[end.activation], rw)
        y = rw.call(end.activation.target, z, *end.activation.args[1:], at=end.activation, **end.activation.kwargs)
    rw.replace(end.activation, y)


def _identity(layer: Node, x: Node, at: Node, rw: Rewriter) -> Node:
    a = arguments(layer)
    old = rw.value(a["weight"])
    channels, *kernel = shape(a["weight"])[:1] + shape(a["weight"])[2:]
    dtype = a["weight"].meta["val"].dtype if old is None else old.dtype
    name = f"{getattr(a['weight'], 'target', layer.name)}_identity"
    bias = None if a["bias"] is None else rw.constant(f"{name}_bias", torch.zeros(channels, dtype=dtype))
    if is_call(layer, aten.linear.default):
        return rw.call(aten.linear.default, x, rw.constant(name, torch.eye(channels, dtype=dtype)), bias, at=at)
    if not all(size % 2 for size in kernel):  # no tap is in the middle
        kernel = [1] * len(kernel)
    weight = torch.zeros(channels, channels // a["groups"], *kernel, dtype=dtype)
    torch.nn.init.dirac_(weight.reshape(*weight.shape[:2], *kernel), a["groups"])
    return convolve(
        rw, layer, x, rw.constant(name, weight), bias, at=at,
        padding=[size // 2 for size in kernel], groups=a["groups"],
    )  # fmt: skip


def _norm(end: End, x: Node, moments: Moments | None, rw: Rewriter) -> Node:
    """A batch norm whose weight and bias undo what its statistics do."""
    assert end.norm is not None
    a = arguments(end.norm)
    channels = shape(end.norm)[1]
    dtype = a["running_mean"].meta["val"].dtype
    mean = torch.zeros(channels, dtype=torch.float64) if moments is None else moments.mean
    variance = torch.ones(channels, dtype=torch.float64) if moments is None else moments.variance
    values = {"weight": (variance + a["eps"]).sqrt(), "bias": mean, "running_mean": mean, "running_var": variance}
    name = f"{end.norm.name}_identity"
    constants = {key: rw.constant(f"{name}_{key}", value.to(dtype)) for key, value in values.items()}
    return rw.call(aten.batch_norm.default, *(a | constants | {"input": x}).values(), at=end.activation)


class ChannelMoments(Interpreter):
    """Runs a Program and sums up what the channels of some activations are like."""

    def __init__(self, program: Program, ends: Iterable[End]) -> None:
        super().__init__(program.graph_module)
        self.moments = {end.activation: Moments() for end in ends if end.norm is not None}

    def see(self, data: Iterable[Sequence[Tensor]]) -> dict[Node, Moments]:
        """The moments over all items of flat inputs."""
        with torch.no_grad():
            for inputs in data:
                self.run(*inputs)
        return self.moments

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self.moments:
            self.moments[n].add(value.movedim(1, -1))
        return value
