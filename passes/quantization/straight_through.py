"""Gradients through rounding: values that are exactly those of integers, with the gradient that training wants."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Step(nn.Module):
    """The scale of a value (one number) or of a weight's channels, which training may change.

    The scale is `start * exp(log_ratio)`, which stays positive and starts exactly at `start` (float32, [n]). The
    gradient of `log_ratio` is that of learned step size quantisation (LSQ, arXiv:1902.08153) for the scale, divided by
    the scale: then a step of plain gradient descent changes the scale, to first order, by the part of itself that LSQ
    does. It is kept within +-1 by tanh, as for trained thresholds (TQT, arXiv:1903.08066), so that no step changes a
    scale by more than the learning rate. With `learned=False` there is no `log_ratio`, and the scale is `start`.
    """

    start: Tensor

    def __init__(self, start: Tensor, *, learned: bool) -> None:
        super().__init__()
        self.register_buffer("start", start.detach().to(torch.float32).reshape(-1).clone())
        self.log_ratio = nn.Parameter(torch.zeros_like(self.start)) if learned else None

    def forward(self) -> Tensor:
        """The scale, [n]."""
        if self.log_ratio is None:
            return self.start.clone()  # `observe` changes it before gradients are computed
        scale: Tensor = _Exponential.apply(self.log_ratio, self.start)  # type: ignore[no-untyped-call]
        return scale

    def observe(self, seen: Tensor, weight: float) -> None:
        """Move the start towards the scale `seen` by the part `weight`; a value that is all zeros tells nothing."""
        moved = torch.lerp(self.start, seen.to(self.start.dtype).expand_as(self.start), weight)
        self.start.copy_(torch.where(seen > 0, moved, self.start))


class _Exponential(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_ratio: Tensor, start: Tensor) -> Tensor:
        scale = start * log_ratio.exp()
        ctx.save_for_backward(scale)
        return scale

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return (gradients[0] / scale).tanh(), None


def rounded(x: Tensor, scale: Tensor, integers: Tensor, low: int, high: int) -> Tensor:
    """integers * scale, as a function of the real `x` that `integers` (float32, zero point subtracted) came from.

    `scale` broadcasts against x. The gradient passes to x where x / scale rounds to within [low, high], and to the
    scale as LSQ has it: integers - x / scale inside, the limit outside, over sqrt(n * high) for n elements that have a
    scale (of one sample, where it is a value's).
    """
    result: Tensor = _Rounded.apply(x, scale, integers, low, high)  # type: ignore[no-untyped-call]
    return result


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, integers: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x, scale, integers)
        ctx.low, ctx.high = low, high
        return integers * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor | None, None, None, None]:
        (gradient,) = gradients
        x, scale, integers = ctx.saved_tensors
        steps = x / scale
        inside = (steps >= ctx.low - 0.5) & (steps <= ctx.high + 0.5)
        to_scale = None
        if ctx.needs_input_grad[1]:
            to_scale = (gradient * (integers - torch.where(inside, steps, 0))).sum_to_size(scale.shape)
            elements = x.numel() / (scale.numel() if scale.numel() > 1 else max(x.shape[0], 1))
            to_scale = to_scale / math.sqrt(max(elements, 1) * max(-ctx.low, ctx.high, 1))
        return torch.where(inside, gradient, 0), to_scale, None, None, None


def replaced(result: Tensor, gradient_of: Tensor) -> Tensor:
    """`result`, with the gradient of `gradient_of`."""
    taken: Tensor = _Replaced.apply(gradient_of, result)  # type: ignore[no-untyped-call]
    return taken


class _Replaced(torch.autograd.Function):
    """Not `a + (b - a).detach()`, which rounds to something else than b."""

    @staticmethod
    def forward(ctx: Any, gradient_of: Tensor, result: Tensor) -> Tensor:
        return result.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0], None


def slopes(table: Tensor) -> Tensor:
    """The slope of a table of 256 integers at each entry, float32: central differences, one-sided at the ends."""
    (slope,) = torch.gradient(table.to(torch.float32))
    return slope
