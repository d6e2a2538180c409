"""Residual sums: when Gemmini computes one exactly, and the pass that makes them such.

Gemmini rounds each operand of a sum to 8 bits as it loads it, adds, and scales and rounds once more:
`round(float32(round(a * a_scale) + round(b * b_scale)) * scale)`, where `round` also clips. The quantised ops add in
float32 and round once. On 8-bit operands there are 65,536 cases, so whether the two agree is simply tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.fx import Node

from ....arguments import arguments
from ....ops import fxpress
from ....ops.requantization import HIGHEST, LOWEST
from ....pass_manager import PassManager
from ....program import Program
from ....rewriter import Rewriter, rewrite

Array = npt.NDArray[Any]

_TRIES = 64


@dataclass(frozen=True)
class Sum:
    """A sum as one call: its operands, what they are multiplied by when loaded, and what the sum is multiplied by.

    `absorbed` are requantisations of operands that the call does itself.
    """

    a: Node
    b: Node
    a_scale: float
    b_scale: float
    scale: float
    absorbed: tuple[Node, ...]


def exact_sum(node: Node, mvin_scale: bool) -> Sum | None:
    """The one call that computes this `quantized_add` to the bit, or None. `mvin_scale`: whether loads can scale."""
    v = arguments(node)
    symmetric = not (v["a_zero"] or v["b_zero"] or v["y_zero"]) and v["mode"] == "F"
    if not symmetric or (v["low"], v["high"]) not in ((LOWEST, HIGHEST), (0, HIGHEST)):
        return None
    if v["a"].meta["val"].shape != v["b"].meta["val"].shape:
        return None
    for a_scale, b_scale, scale in _candidates(v["a_scale"] / v["y_scale"], v["b_scale"] / v["y_scale"], mvin_scale):
        if not _agree(v["a_scale"] / v["y_scale"], v["b_scale"] / v["y_scale"], a_scale, b_scale, scale, v["low"]):
            continue
        a, a_scale, a_absorbed = _operand(v["a"], a_scale, mvin_scale)
        b, b_scale, b_absorbed = _operand(v["b"], b_scale, mvin_scale)
        return Sum(a, b, a_scale, b_scale, scale, a_absorbed + b_absorbed)
    return None


def _candidates(a: float, b: float, mvin_scale: bool) -> Iterator[tuple[float, float, float]]:
    if np.float32(a) == np.float32(b):
        yield 1.0, 1.0, a
    if mvin_scale:
        yield a, b, 1.0


def _operand(x: Node, scale: float, mvin_scale: bool) -> tuple[Node, float, tuple[Node, ...]]:
    """The operand with its load's scale: that of a requantisation when that is all the load has to do."""
    if x.target is not fxpress.requantize.default or scale != 1.0 or not mvin_scale:
        return x, scale, ()
    v = arguments(x)
    if v["x_zero"] or v["y_zero"] or (v["low"], v["high"], v["mode"]) != (LOWEST, HIGHEST, "F"):
        return x, scale, ()
    return v["x"], v["x_scale"] / v["y_scale"], (x,)


@lru_cache(maxsize=256)
def _agree(a: float, b: float, a_scale: float, b_scale: float, scale: float, low: int) -> bool:
    """Whether Gemmini's sum with these scales is that of the op with the factors `a`, `b`, for all 8-bit operands."""
    x = np.arange(LOWEST, HIGHEST + 1)
    wanted = np.clip(np.rint(_product(x, a)[:, None] + _product(x, b)[None, :]), low, HIGHEST)
    loaded = _round(_product(x, a_scale))[:, None] + _round(_product(x, b_scale))[None, :]
    return bool((np.maximum(_round(_product(loaded, scale)), low) == wanted).all())


def _product(x: Array, factor: float) -> Array:
    return x.astype(np.float32) * np.float32(factor)


def _round(x: Array) -> Array:
    return np.clip(np.rint(x), LOWEST, HIGHEST)


@rewrite(
    fxpress.quantized_add.default, fxpress.quantized_conv.default, fxpress.quantized_linear.default, accuracy="lossy"
)
def gemmini_sums(node: Node, rw: Rewriter) -> None:
    """a + b, conv(x) + r  ->  requantize(a) + requantize(b): sums as Gemmini computes them

    Both operands get the largest scale of operands and result, so that neither is cut off. Only for operands of one
    shape, zero points 0 and mode F.
    """
    v = arguments(node)
    is_layer = node.target is not fxpress.quantized_add.default
    if any(value for name, value in v.items() if name.endswith("_zero")) or v["mode"] != "F":
        return rw.skip(node, "it has zero points, or requantises in fixed point")
    y_scale, low, high = v["y_scale"], v["low"], v["high"]
    if is_layer:
        if v["residual"] is None:
            return None
        common = common_scale((v["residual_scale"],), y_scale, low)
        quiet = {"residual": None, "residual_scale": 1.0, "y_scale": common, "low": LOWEST, "high": HIGHEST}
        a = rw.call(node.target, *{**v, **quiet}.values(), at=node)
        b = _requantized(v["residual"], v["residual_scale"], common, node, rw)
    else:
        if v["a_scale"] == v["b_scale"] or exact_sum(node, mvin_scale=True) is not None:
            return None
        if v["a"].meta["val"].shape != v["b"].meta["val"].shape:
            return rw.skip(node, "its operands have different shapes")
        common = common_scale((v["a_scale"], v["b_scale"]), y_scale, low)
        a = _requantized(v["a"], v["a_scale"], common, node, rw)
        b = _requantized(v["b"], v["b_scale"], common, node, rw)
    op = fxpress.quantized_add.default
    rw.replace(node, rw.call(op, a, b, common, 0, common, 0, y_scale, 0, low, high, "F", at=node))
    return None


def common_scale(scales: tuple[float, ...], y_scale: float, low: int) -> float:
    """The largest scale, or one next to it, at which Gemmini adds exactly: float32 products may round at a tie."""
    common = max(*scales, y_scale)
    for _ in range(_TRIES):
        factor = common / y_scale
        if _agree(factor, factor, 1.0, 1.0, factor, low):
            break
        common = float(np.nextafter(np.float32(common), np.float32(np.inf)))
    return common


def _requantized(x: Node, scale: float, wanted: float, at: Node, rw: Rewriter) -> Node:
    if scale == wanted:
        return x
    return rw.call(fxpress.requantize.default, x, scale, 0, wanted, 0, LOWEST, HIGHEST, "F", at=at)


def prepare(program: Program) -> Program:
    """A quantised Program with sums that Gemmini computes: what `emit` takes. Sums with residuals round anew."""
    return PassManager([gemmini_sums, "merge-duplicates", "drop-dead-code"]).run(program)
