"""Fourier transforms  ->  products with constant matrices of cosines and sines; no complex numbers remain"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import torch
from torch.fx import Node

from ...rewriter import Rewriter, rewrite
from ..match import arguments, dtype, is_call, is_static, shape

aten = torch.ops.aten

TRANSFORMS = (aten._fft_c2c.default, aten._fft_r2c.default)
MAX_SIZE = 2048  # elements along a transformed dim: the matrices have its square

Parts = tuple[Node, Node | None]  # real and imaginary, None for zero


@rewrite(aten.view_as_real.default, aten.abs.default, accuracy="reassociating")
def expand_fft(node: Node, rw: Rewriter) -> None:
    """view_as_real(fft(x))  ->  stack([x @ cos, x @ -sin]); abs(fft(x))  ->  the root of the sum of their squares

    For sizes that are known and at most 2048: longer transforms are cheaper by the fast algorithm, which has no kernel.
    """
    source = node.args[0]
    if not dtype(source).is_complex:
        return
    reason = _reason(source)
    if reason is not None:
        rw.skip(node, reason)
        return
    real, imaginary = _parts(source, node, rw)
    if imaginary is None:
        imaginary = rw.call(aten.mul.Tensor, real, 0.0, at=node)
    if node.target is aten.abs.default:
        squares = [rw.call(aten.mul.Tensor, part, part, at=node) for part in (real, imaginary)]
        rw.replace(node, rw.call(aten.sqrt.default, rw.call(aten.add.Tensor, *squares, at=node), at=node))
        return
    for user in list(node.users):
        if is_call(user, aten.select.int) and user.args[1] in (-1, len(shape(source))):
            rw.replace(user, (real, imaginary)[user.args[2]])
    if rw.erased(node):
        return
    last = [rw.call(aten.unsqueeze.default, part, -1, at=node) for part in (real, imaginary)]
    rw.replace(node, rw.call(aten.cat.default, last, -1, at=node))


def _reason(x: Node) -> str | None:
    """Why the complex value `x` cannot be split into its parts, or None."""
    if is_call(x, aten._to_copy.default):
        inner: Any = x.args[0]
        return None if dtype(inner) == torch.float32 else "only complex numbers made of float32 are expanded"
    if not is_call(x, *TRANSFORMS):
        return "only Fourier transforms of real numbers are expanded"
    inner = x.args[0]
    if not is_static(inner) or any(shape(inner)[dim] > MAX_SIZE for dim in arguments(x)["dim"]):
        return f"a transformed dimension must have a known size of at most {MAX_SIZE}"
    return None if x.target is aten._fft_r2c.default else _reason(inner)


def _parts(x: Node, at: Node, rw: Rewriter) -> Parts:
    inner: Any = x.args[0]
    if is_call(x, aten._to_copy.default):
        return inner, None
    a = arguments(x)
    real_input = x.target is aten._fft_r2c.default
    parts = (inner, None) if real_input else _parts(inner, at, rw)
    sign = 1.0 if real_input or a["forward"] else -1.0
    dims = [dim % len(shape(inner)) for dim in a["dim"]]
    for dim in reversed(dims):
        n = shape(inner)[dim]
        count = n // 2 + 1 if real_input and a["onesided"] and dim == dims[-1] else n
        parts = _transform(parts, dim, n, count, sign, (1.0, 1 / sqrt(n), 1 / n)[a["normalization"]], at, rw)
    return parts


def _transform(parts: Parts, dim: int, n: int, count: int, sign: float, scale: float, at: Node, rw: Rewriter) -> Parts:
    """(re + i im) times cos - i sign sin, along one dim."""
    # angles are reduced exactly, as integers, before they become float64
    angles = (torch.outer(torch.arange(count), torch.arange(n)) % n).double() * (2 * pi / n)
    cosine, sine = (angles.cos() * scale).float(), (angles.sin() * (scale * sign)).float()
    named = (("fft_cos", cosine), ("fft_sin", sine), ("fft_minus_sin", -sine))
    matrices = [rw.constant(name, matrix) for name, matrix in named]
    real, imaginary = parts

    def product(x: Node, which: int) -> Node:
        order = [d for d in range(len(shape(x))) if d != dim] + [dim]
        back = sorted(range(len(order)), key=order.__getitem__)
        moved = rw.call(aten.permute.default, x, order, at=at)
        return rw.call(aten.permute.default, rw.call(aten.linear.default, moved, matrices[which], at=at), back, at=at)

    if imaginary is None:
        return product(real, 0), product(real, 2)
    return (
        rw.call(aten.add.Tensor, product(real, 0), product(imaginary, 1), at=at),
        rw.call(aten.add.Tensor, product(real, 2), product(imaginary, 0), at=at),
    )
