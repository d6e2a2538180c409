"""Index maps of what has weights or sums products up: convolutions, linear layers, norms, attention, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from ...ops import fxpress
from .map_types import IndexMap, Kept
from .ties import FACTOR, Axis, Ties, rank, size_of

aten = torch.ops.aten
Arguments = Mapping[str, Any]
POSITIONS = "positions of an image or sequence"
OUTER, INNER_X, INNER_Y = 0, 1, 2  # factors of channels in groups


def _input(a: Arguments) -> Node:
    """The first operand, which ATen calls input or self, and we x."""
    name = next(name for name in ("input", "x", "self") if name in a)
    x: Node = a[name]
    return x


def _convolution(transposed: bool) -> Callable[[Ties, Node, Arguments], None]:
    def ties(m: Ties, node: Node, a: Arguments) -> None:
        x, weight, groups = _input(a), a["weight"], a["groups"]
        spatial = rank(weight) - 2
        channel = rank(x) - 1 if a.get("channels_last") else rank(x) - 1 - spatial
        for dim in range(rank(x)):
            if dim == channel:
                continue
            if rank(x) == spatial + 2 and dim == 0:
                m.same(m.axis(x, dim), m.axis(node, dim))
                continue
            m.hold(m.axis(x, dim), POSITIONS)
            m.hold(m.axis(node, dim), POSITIONS)
        for dim in range(2, rank(weight)):
            m.hold(m.axis(weight, dim), "taps of a kernel")
        x_channels, y_channels = m.axis(x, channel), m.axis(node, channel)
        if groups == 1:
            m.contract(x_channels, m.axis(weight, 0 if transposed else 1))
            m.same(y_channels, m.axis(weight, 1 if transposed else 0))
        else:
            _grouped(m, weight, x_channels, y_channels, groups, transposed)
        if isinstance(a["bias"], Node):
            m.same(m.axis(a["bias"], 0), y_channels)
        m.broadcast(a.get("residual"), node)

    return ties


def _grouped(m: Ties, weight: Node, x: Axis, y: Axis, groups: int, transposed: bool) -> None:
    """Channels are groups times channels of a group: groups go, or the same channels of each group."""
    outer = m.factor(OUTER, groups)
    inner_x = [m.factor(INNER_X, m.sizes[x] // groups)] if m.sizes[x] > groups else []
    inner_y = [m.factor(INNER_Y, m.sizes[y] // groups)] if m.sizes[y] > groups else []
    m.split(x, [outer, *inner_x])
    m.split(y, [outer, *inner_y])
    m.same(m.axis(weight, 0), x if transposed else y)
    columns = m.axis(weight, 1)
    for factor in inner_y if transposed else ():
        m.same(factor, columns)
    for factor in () if transposed else inner_x:
        m.contract(factor, columns)


def _groups_left(kept: Kept, node: Node, a: Arguments) -> dict[str, Any]:
    return {} if a["groups"] == 1 else {"groups": kept.count(Axis(node, OUTER, FACTOR))}


def _linear(m: Ties, node: Node, a: Arguments) -> None:
    x, weight, bias = _input(a), a["weight"], a["bias"]
    for dim in range(rank(x) - 1):
        m.same(m.axis(x, dim), m.axis(node, dim))
    m.contract(m.axis(x, -1), m.axis(weight, -1))
    if rank(weight) == 1:
        return
    m.same(m.axis(node, -1), m.axis(weight, 0))
    if isinstance(bias, Node):
        m.same(m.axis(node, -1), m.axis(bias, 0))
    m.broadcast(a.get("residual"), node)


def _product(m: Ties, node: Node, x: Node, y: Node) -> None:
    """x @ y: [..., m, k] and [..., k, n]; a vector has no m, or no n."""
    m.contract(m.axis(x, -1), m.axis(y, -2 if rank(y) > 1 else 0))
    is_computed = rank(x) > 2 and rank(y) > 2
    if is_computed:  # of the values of attention written out, heads go before parts of heads
        m.reluctant |= {m.axis(x, -1), m.axis(y, -2), m.axis(x, -2), m.axis(y, -1)}
    if rank(x) > 1:
        m.same(m.axis(x, -2), m.axis(node, -2 if rank(y) > 1 else -1))
    if rank(y) > 1:
        m.same(m.axis(y, -1), m.axis(node, -1))
    matrix = (rank(x) > 1) + (rank(y) > 1)
    for value in (x, y):
        own, batch = min(rank(value), 2), rank(node) - matrix
        for back in range(1, rank(value) - own + 1):
            m.same(m.axis(value, rank(value) - own - back), m.axis(node, batch - back))


def _matmul(m: Ties, node: Node, a: Arguments) -> None:
    _product(m, node, a["self"], a["mat2"] if "mat2" in a else a["other"])


def _added_product(first: str, second: str) -> Callable[[Ties, Node, Arguments], None]:
    def ties(m: Ties, node: Node, a: Arguments) -> None:
        _product(m, node, a[first], a[second])
        m.broadcast(a["self"], node)

    return ties


def _embedding(m: Ties, node: Node, a: Arguments) -> None:
    m.hold(m.axis(a["weight"], 0), "rows of a table, looked up by number")
    m.same(m.axis(a["weight"], 1), m.axis(node, -1))
    for dim in range(rank(a["indices"])):
        m.same(m.axis(a["indices"], dim), m.axis(node, dim))


def _attention(m: Ties, node: Node, a: Arguments) -> None:
    q, k, v, mask = a["query"], a["key"], a["value"], a["attn_mask"]
    m.contract(m.axis(q, -1), m.axis(k, -1))
    m.same(m.axis(v, -1), m.axis(node, -1))
    m.reluctant |= {m.axis(q, -1), m.axis(k, -1), m.axis(v, -1)}
    m.same(m.axis(q, -2), m.axis(node, -2))
    for value in (k, v):
        m.hold(m.axis(value, -2), "positions that attention's softmax is over")
    if isinstance(mask, Node):
        m.hold(m.axis(mask, -1), "positions that attention's softmax is over")
        m.broadcast(mask, node, skip=(-1,))
    for back in range(3, rank(node) + 1):
        is_grouped = back == 3 and a.get("enable_gqa") and size_of(q, -3) != size_of(k, -3)
        m.broadcast_axis(q, node, back)
        for value in (k, v):
            if is_grouped:
                heads, kinds = m.sizes[m.axis(q, -3)], m.sizes[m.axis(value, -3)]
                shared = m.factor(2 * (value is v), kinds), m.factor(2 * (value is v) + 1, heads // kinds)
                m.same(m.axis(value, -3), shared[0])
                m.hold(shared[1], "query heads that share a key")
                m.split(m.axis(q, -3), shared)
            else:
                m.broadcast_axis(value, node, back)


def _own_scale(kept: Kept, node: Node, a: Arguments) -> dict[str, Any]:
    """The scale that attention takes from the depth of a head stays that of the original."""
    depth = size_of(a["query"], -1)
    if a["scale"] is not None or kept.count(Axis(a["query"], rank(a["query"]) - 1)) == depth:
        return {}
    return {"scale": float(depth) ** -0.5}


def _layer_norm(m: Ties, node: Node, a: Arguments) -> None:
    m.broadcast(a["input"], node)
    m.broadcast(a["weight"], node)
    m.broadcast(a.get("bias"), node)


def _normalized_shape(kept: Kept, node: Node, a: Arguments) -> dict[str, Any]:
    first = rank(node) - len(a["normalized_shape"])
    return {"normalized_shape": [kept.count(Axis(node, dim)) for dim in range(first, rank(node))]}


def _along_channels(m: Ties, node: Node, a: Arguments) -> Axis:
    """x and the result are the same, and each vector lies along the channels."""
    x = _input(a)
    m.broadcast(x, node)
    channels = m.axis(node, -1 if a.get("channels_last") else min(1, rank(x) - 1))
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(a.get(name), Node):
            m.same(m.axis(a[name], 0), channels)
    return channels


def _batch_norm(m: Ties, node: Node, a: Arguments) -> None:
    _along_channels(m, node, a)
    if a["training"]:
        m.hold_value(node, "a batch norm that is training")


def _group_norm(m: Ties, node: Node, a: Arguments) -> None:
    channels = _along_channels(m, node, a)
    groups = a["num_groups"] if "num_groups" in a else a["groups"]
    inner = m.sizes[channels] // groups
    factors = [m.factor(OUTER, groups)] * (groups > 1) + [m.factor(INNER_X, inner)] * (inner > 1)
    m.split(channels, factors or [channels])


def _norm_groups_left(kept: Kept, node: Node, a: Arguments) -> dict[str, Any]:
    name = "num_groups" if "num_groups" in a else "groups"
    return {} if a[name] == 1 else {name: kept.count(Axis(node, OUTER, FACTOR))}


def _prelu(m: Ties, node: Node, a: Arguments) -> None:
    m.broadcast(a["self"], node)
    m.same(m.axis(a["weight"], 0), m.axis(node, min(1, rank(node) - 1)))


def _window(spatial: int) -> Callable[[Ties, Node, Arguments], None]:
    """The last dims are positions, those before are the same."""

    def ties(m: Ties, node: Node, a: Arguments) -> None:
        x = _input(a)
        _positions(m, node, x, range(rank(x) - spatial, rank(x)))

    return ties


def _our_window(m: Ties, node: Node, a: Arguments) -> None:
    x = a["x"]
    _positions(m, node, x, range(1, rank(x) - 1) if a["channels_last"] else range(2, rank(x)))


def _positions(m: Ties, node: Node, x: Node, dims: Sequence[int]) -> None:
    for dim in range(rank(x)):
        if dim not in dims:
            m.same(m.axis(x, dim), m.axis(node, dim))
            continue
        m.hold(m.axis(x, dim), POSITIONS)
        m.hold(m.axis(node, dim), POSITIONS)


_CONV = IndexMap(_convolution(transposed=False), _groups_left)
_CONV_TRANSPOSE = IndexMap(_convolution(transposed=True), _groups_left)

LAYERS: dict[Any, IndexMap] = {
    aten.conv1d.default: _CONV,
    aten.conv2d.default: _CONV,
    aten.conv3d.default: _CONV,
    fxpress.conv.default: _CONV,
    fxpress.narrow_conv.default: _CONV,
    aten.conv_transpose1d.default: _CONV_TRANSPOSE,
    aten.conv_transpose2d.input: _CONV_TRANSPOSE,
    aten.conv_transpose3d.input: _CONV_TRANSPOSE,
    fxpress.conv_transpose.default: _CONV_TRANSPOSE,
    aten.linear.default: IndexMap(_linear),
    fxpress.linear.default: IndexMap(_linear),
    fxpress.narrow_linear.default: IndexMap(_linear),
    aten.matmul.default: IndexMap(_matmul),
    aten.mm.default: IndexMap(_matmul),
    aten.bmm.default: IndexMap(_matmul),
    aten.addmm.default: IndexMap(_added_product("mat1", "mat2")),
    aten.baddbmm.default: IndexMap(_added_product("batch1", "batch2")),
    aten.embedding.default: IndexMap(_embedding),
    aten.scaled_dot_product_attention.default: IndexMap(_attention, _own_scale),
    fxpress.attention.default: IndexMap(_attention),
    aten.layer_norm.default: IndexMap(_layer_norm, _normalized_shape),
    aten.rms_norm.default: IndexMap(_layer_norm, _normalized_shape),
    aten.batch_norm.default: IndexMap(_batch_norm),
    aten.group_norm.default: IndexMap(_group_norm, _norm_groups_left),
    fxpress.group_norm.default: IndexMap(_group_norm, _norm_groups_left),
    aten.prelu.default: IndexMap(_prelu),
    **{
        getattr(aten, f"{name}{spatial}d").default: IndexMap(_window(spatial))
        for spatial in (1, 2, 3)
        for name in ("max_pool", "avg_pool", "adaptive_avg_pool", "reflection_pad", "replication_pad")
    },
    **{
        op: IndexMap(_window(spatial))
        for op, spatial in (
            (aten.upsample_nearest1d.vec, 1),
            (aten.upsample_nearest2d.vec, 2),
            (aten.upsample_nearest3d.vec, 3),
            (aten._upsample_nearest_exact1d.vec, 1),
            (aten._upsample_nearest_exact2d.vec, 2),
            (aten._upsample_nearest_exact3d.vec, 3),
            (aten.upsample_linear1d.vec, 1),
            (aten.upsample_bilinear2d.vec, 2),
            (aten.upsample_bicubic2d.vec, 2),
            (aten.upsample_trilinear3d.vec, 3),
        )
    },
    **{
        op: IndexMap(_our_window)
        for op in (
            fxpress.max_pool.default,
            fxpress.avg_pool.default,
            fxpress.adaptive_avg_pool.default,
            fxpress.adaptive_max_pool.default,
            fxpress.resize.default,
        )
    },
}
