"""Rules for layers that multiply: convolutions, linear layers, products of two computed values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from ....arguments import arguments
from ....ops.quantized import real
from .constants import requantization, sums_fit
from .layers import Convolution, Product, Window, identity_requantization, merged, window_of, with_axes
from .selector import Refused, Selector
from .views import Axis, Operand, dense, operand, words_of


def _weight_and_bias(selector: Selector, node: Node) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The constants of a layer; one that gives sums has no bias."""
    values = arguments(node)
    weight = selector.constant(values["weight"], node, "weight")
    bias = selector.constant(values["bias"], node, "bias") if "bias" in values else None
    if not sums_fit(weight, bias):
        raise Refused(node, "its sums of products may leave 32 bits; split its input channels")
    return weight, bias


def convolution(selector: Selector, node: Node) -> None:
    values = arguments(node)
    weight, bias = _weight_and_bias(selector, node)
    rank = weight.dim()
    lanes = rank - 1 if values["channels_last"] else 1
    if values["x"] in selector.done.windows:
        source = selector.operand(values["x"], range(rank - 1, 2 * rank - 2), node)
        weight = weight.movedim(1, -1).reshape(weight.shape[0], -1, 1, 1)
        window = Window(fill=values["x_zero"])
    else:
        source = selector.operand(values["x"], [lanes], node)
        stride, dilation, padding = (values[name] for name in ("stride", "dilation", "padding"))
        window = window_of(weight.shape[2:], stride, dilation, padding, values["x_zero"])
        check_window(node, window)
        weight = weight.reshape(*weight.shape[:2], *window.kernel)
    _layer(selector, node, source, weight, bias, window, lanes, groups=values["groups"], one_row=rank == 3)


def check_window(node: Node, window: Window) -> None:
    """Raise Refused for a window that instructions cannot describe."""
    if max(*window.kernel, *window.padding) > 255:
        found = f"{list(window.kernel)} and {list(window.padding)}"
        raise Refused(node, f"its windows and their padding must be at most 255 elements wide, not {found}")


def linear(selector: Selector, node: Node) -> None:
    values = arguments(node)
    weight, bias = _weight_and_bias(selector, node)
    rank = values["x"].meta["val"].dim()
    source = selector.operand(values["x"], [rank - 1], node)
    _layer(selector, node, source, weight[:, :, None, None], bias, Window(), rank - 1)


def _layer(
    selector: Selector,
    node: Node,
    source: Operand,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    window: Window,
    lanes: int,
    *,
    groups: int = 1,
    one_row: bool = False,
) -> None:
    """A convolution of `source` with a weight [oc, ic / groups, ky, kx], whose results have channels at `lanes`."""
    values = arguments(node)
    head = selector.head(node)
    rest: dict[str, Any] = {}
    if len(np.unique(source.places)) < source.channels:
        raise Refused(node, "channels of its operand are copies of one another; copy them after the layer instead")
    if "y_scale" in values:
        scale = selector.constant(values["weight_scale"], node, "weight scale").to(torch.float64)
        terms = [scale * values["x_scale"] / values["y_scale"]]
        result, table = selector.fused_table(node)
        residual = values["residual"]
        operands = [source]
        if residual is not None:
            terms.append(real(values["residual_scale"], scale) / values["y_scale"])
        rest["requantization"] = selector.requantization(node, bias, terms)
        output = operand(selector.allocate(result, lanes), [lanes], selector.columns)
        assert not isinstance(output, str)
        operands.append(output)
        if residual is not None:
            operands.append(_aligned(selector, node, residual, lanes))
        rest["table"] = table
    else:
        operands = [source, selector.sums_operand(selector.sums(node, lanes), lanes)]
    if one_row:
        operands = [with_axes(x, (*x.axes[:-1], Axis(1, 0), x.axes[-1])) for x in operands]
    if window.is_point:
        operands = list(merged(*operands))
    source, output, *more = operands
    integers = np.ascontiguousarray(weight.numpy())
    selector.add(
        Convolution(
            **head, source=source, output=output, residual=more[0] if more else None,
            weight=integers, groups=groups, window=window, **rest,
        )
    )  # fmt: skip


def _aligned(selector: Selector, node: Node, x: Node, lanes: int) -> Operand:
    """An operand that is read channel by channel beside sums: its channels must lie as those of results do."""
    found = selector.operand(x, [lanes], node)
    if not np.array_equal(found.places, np.arange(found.channels)):
        regrouped = regroup(selector, node, found, selector.view(x).shape, lanes)
        found = regrouped
    return found


def regroup(selector: Selector, node: Node, source: Operand, shape: Sequence[int], lanes: int) -> Operand:
    """A copy of `source` whose channels lie one after another, by a product with a permutation."""
    channels = shape[lanes]
    pixels = int(np.prod(shape)) // channels
    table = np.arange(channels, dtype=np.int64)
    buffer = selector.buffer(f"{node.name} regrouped", words_of(table, selector.columns) * pixels)
    output = operand(dense(buffer, shape, lanes, table, selector.columns), [lanes], selector.columns)
    assert not isinstance(output, str)
    permute_lanes(selector, node, source, output)
    return output


def permute_lanes(selector: Selector, node: Node, source: Operand, output: Operand) -> None:
    eye = np.eye(source.channels, dtype=np.int8)[:, :, None, None]
    source, output = merged(source, output)
    selector.add(
        Convolution(
            **selector.head(node), source=source, output=output, weight=eye, requantization=identity_requantization()
        )
    )


def product(selector: Selector, node: Node) -> None:
    values = arguments(node)
    a, b = values["a"], values["b"]
    left, right = a.meta["val"].shape, b.meta["val"].shape
    if values["a_zero"] or values["b_zero"]:
        raise Refused(node, "zero points of both operands of a product must be 0 on the array; quantise for it")
    if len(left) < 2 or len(right) != len(left) or left[:-2] != right[:-2]:
        raise Refused(node, f"operands of a product must have equal batch dims, not {list(left)} and {list(right)}")
    depth, width, rank = left[-1], right[-1], len(left)
    if 128 * 128 * depth >= 2**31:
        raise Refused(node, "its sums of products may leave 32 bits")
    source = selector.operand(a, [rank - 1], node)
    flat = np.arange(depth)
    plain = operand(selector.view(b), [rank - 1], selector.columns)
    turned = operand(selector.view(b), [rank - 2], selector.columns)
    if not np.array_equal(source.places, flat):
        source = regroup(selector, node, source, left, rank - 1)
    if not isinstance(turned, str) and np.array_equal(turned.places, flat) and width > 1:
        weights, transposed = turned, True
    elif not isinstance(plain, str) and np.array_equal(plain.places, np.arange(width)):
        weights, transposed = plain, False
    else:
        raise Refused(node, "its second operand's words hold neither rows nor columns")
    rest: dict[str, Any] = {}
    if "y_scale" in values:
        factor = torch.tensor(values["a_scale"], dtype=torch.float64) * values["b_scale"] / values["y_scale"]
        result, rest["table"] = selector.fused_table(node)
        found = requantization(0, [factor], values["y_zero"], values["low"], values["high"])
        if isinstance(found, str):
            raise Refused(node, found)
        rest["requantization"] = found
        output = operand(selector.allocate(result, rank - 1), [rank - 1], selector.columns)
        assert not isinstance(output, str)
    else:
        output = selector.sums_operand(selector.sums(node, rank - 1), rank - 1)
    point = Axis(1, 0)
    source, output = (with_axes(x, (*x.axes[:-1], point, x.axes[-1])) for x in (source, output))
    selector.add(
        Product(
            **selector.head(node), source=source, output=output, weights=weights, transposed=transposed,
            depth=depth, width=width, **rest,
        )
    )  # fmt: skip
