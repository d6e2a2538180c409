"""Which ops a captured Program may hold: what stays whole, what is decomposed, and the one spelling of each.

PyTorch has several overloads for most jobs. A captured Program has one of them, so that a rule or a lowering is written
once: `reshape` (never `view`), `permute` (never `transpose` or `t`), `softmax.int` without a dtype, `mul.Tensor` with a
number (never `mul.Scalar`), `batch_norm`, `_to_copy` with nothing but a dtype. There is no clone, alias, detach or
dropout, and no op that writes to its inputs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decompositions
from torch.fx import Node

from .composites import COMPOSITES

aten = torch.ops.aten

KEPT_WHOLE = (
    *("linear", "matmul", "bmm", "baddbmm", "addmm", "embedding", "scaled_dot_product_attention"),
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("layer_norm", "group_norm", "rms_norm"),
    *("gelu", "silu", "hardswish", "hardsigmoid", "mish", "softplus", "prelu"),
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    *("reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
    *("replication_pad1d", "replication_pad2d", "replication_pad3d"),
    *("pixel_shuffle", "pixel_unshuffle"),
)
"""Ops that have a kernel of their own and would be expensive to recognise from their pieces."""

KEPT_OVERLOADS = (
    aten.lstm.input,
    aten.gru.input,
    aten.upsample_nearest1d.vec,
    aten.upsample_nearest2d.vec,
    aten.upsample_nearest3d.vec,
    aten._upsample_nearest_exact1d.vec,
    aten._upsample_nearest_exact2d.vec,
    aten._upsample_nearest_exact3d.vec,
    aten.upsample_linear1d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bicubic2d.vec,
    aten.upsample_trilinear3d.vec,
)
"""As KEPT_WHOLE, where the op's other overloads are decomposed."""

DecompositionTable = dict[torch._ops.OperatorBase, Callable[..., Any]]


def decomposition_table() -> DecompositionTable:
    """The decompositions of capture: core ATen, less what is kept whole, plus better ones of our own."""
    table: DecompositionTable = torch.export.default_decompositions()
    for name in KEPT_WHOLE:
        packet = getattr(aten, name)
        for overload in packet.overloads():
            if overload != "padding":  # conv2d(padding="same") becomes conv2d with numbers
                table.pop(getattr(packet, overload), None)
    ours = [op for op in table if isinstance(op, torch._ops.OpOverload) and op.namespace == "fxpress"]
    for op in (*KEPT_OVERLOADS, *ours):
        table.pop(op, None)
    table.update(COMPOSITES)
    table[aten.instance_norm.default] = _instance_norm
    table[aten._native_batch_norm_legit.no_stats] = _batch_norm_without_statistics
    table[aten.roll.default] = _roll
    table[aten.lerp.Scalar] = _lerp
    table[aten.im2col.default] = _im2col
    table[aten.col2im.default] = _col2im
    return table


def _instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """Instance norm is group norm with one channel a group; with running statistics it is batch norm."""
    if use_input_stats:
        return torch.group_norm(x, x.shape[1], weight, bias, eps)
    return torch.batch_norm(x, weight, bias, running_mean, running_var, False, momentum, eps, False)


def _batch_norm_without_statistics(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalising each channel over the batch is group norm of one sample. The saved statistics have no users."""
    one_sample = x.transpose(0, 1).reshape(1, x.shape[1], -1)
    normal = torch.group_norm(one_sample, x.shape[1], weight, bias, eps)
    shape = (x.shape[1], x.shape[0], *x.shape[2:])
    return normal.reshape(shape).transpose(0, 1), x.new_empty(0), x.new_empty(0)


def _roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor:
    """A roll is two slices exchanged; PyTorch's own decomposition gathers with computed indices."""
    if not dims:
        return _roll(x.reshape(-1), shifts, (0,)).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        size = x.shape[dim]
        split = (size - shift) % size if size else 0
        if split:
            x = torch.cat([x.narrow(dim, split, size - split), x.narrow(dim, 0, split)], dim)
    return x


def _lerp(x: Tensor, end: Tensor, weight: float) -> Tensor:
    """As PyTorch computes it; its own decomposition makes a tensor of the weight and chooses at run time."""
    return x + weight * (end - x) if abs(weight) < 0.5 else end - (end - x) * (1 - weight)


def _im2col(
    x: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """Patches that neither overlap nor leave gaps are a permute; PyTorch's own decomposition gathers."""
    if not _tiles(x.shape[-2:], kernel_size, dilation, padding, stride):
        return decompositions.im2col(x, list(kernel_size), list(dilation), list(padding), list(stride))
    (h, w), (*batch, c, height, width) = kernel_size, x.shape
    cut = x.reshape(-1, c, height // h, h, width // w, w)
    return cut.permute(0, 1, 3, 5, 2, 4).reshape(*batch, c * h * w, (height // h) * (width // w))


def _col2im(
    x: Tensor,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """As for im2col, of which this is the inverse; PyTorch's own decomposition scatters."""
    if not _tiles(output_size, kernel_size, dilation, padding, stride):
        return decompositions.col2im(x, output_size, kernel_size, dilation, padding, stride)  # type: ignore[no-any-return]
    (h, w), (height, width), (*batch, patch, _) = kernel_size, output_size, x.shape
    cut = x.reshape(-1, patch // (h * w), h, w, height // h, width // w)
    return cut.permute(0, 1, 4, 2, 5, 3).reshape(*batch, patch // (h * w), height, width)


def _tiles(
    size: Sequence[int], kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> bool:
    """Whether windows cover an image without overlap, gap or border."""
    whole = all(n % k == 0 for n, k in zip(size, kernel, strict=True))
    return whole and list(kernel) == list(stride) and all(d == 1 for d in dilation) and not any(padding)


def respell(node: Node) -> Node | None:
    """The node that says the same in the one spelling Programs use, or None when `node` is fine as it is."""
    rule = _SPELLINGS.get(node.target)
    return rule(node) if rule is not None else None


def _call(node: Node, op: Any, *args: Any, **kwargs: Any) -> Node:
    with node.graph.inserting_before(node):
        return node.graph.create_node("call_function", op, args, kwargs, name=op.overloadpacket.__name__)


def _first_argument(node: Node) -> Node:
    return node.args[0]


def _to_reshape(node: Node) -> Node:
    return _call(node, aten.reshape.default, *node.args)


def _to_softmax(op: Any) -> Callable[[Node], Node]:
    return lambda node: _call(node, op, *node.args[:2])


def _to_tensor_overload(op: Any) -> Callable[[Node], Node]:
    return lambda node: _call(node, op, *node.args, **node.kwargs)


def _to_clamp(node: Node) -> Node:
    return _call(node, aten.clamp.default, *node.args)


def _to_batch_norm(node: Node) -> Node | None:
    """The only result used of `_native_batch_norm_legit_no_training` is the first: give batch_norm as that one."""
    source, index = node.args
    if (
        index != 0
        or not isinstance(source, Node)
        or source.target is not aten._native_batch_norm_legit_no_training.default
    ):
        return None
    x, weight, bias, mean, variance, momentum, eps = source.args
    return _call(node, aten.batch_norm.default, x, weight, bias, mean, variance, False, momentum, eps, False)


def _to_convolution(node: Node) -> Node | None:
    """`convolution` says with a flag what conv1d, conv_transpose2d, ... say with their names."""
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
    dimensions = weight.meta["val"].dim() - 2
    if not 1 <= dimensions <= 3:
        return None
    if transposed:
        ops = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
        return _call(node, ops[dimensions - 1], x, weight, bias, stride, padding, output_padding, groups, dilation)
    ops = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
    return _call(node, ops[dimensions - 1], x, weight, bias, stride, padding, dilation, groups)


def _to_expand(node: Node) -> Node:
    """`copy(x, source)` is `source` in the shape and dtype of x."""
    x, source = (argument.meta["val"] for argument in node.args[:2])
    result: Any = node.args[1]
    if source.dtype != x.dtype:
        result = _call(node, aten._to_copy.default, result, dtype=x.dtype)
        result.meta = {**node.meta, "val": source.to(x.dtype)}
    return result if source.shape == x.shape else _call(node, aten.expand.default, result, list(x.shape))


def _without_defaults(node: Node) -> Node | None:
    """Where and how a new tensor lies in memory goes without saying."""
    device = node.kwargs.get("device")
    kwargs = {key: value for key, value in node.kwargs.items() if key == "dtype" and value is not None}
    if len(kwargs) == len(node.kwargs) or (device is not None and torch.device(device).type != "cpu"):
        return None
    return _call(node, node.target, *node.args, **kwargs)


def _to_cast(node: Node) -> Node | None:
    """A copy that changes no dtype is its input; another says its dtype and nothing else."""
    x = _first_argument(node)
    dtype = node.kwargs.get("dtype") or x.meta["val"].dtype
    if x.meta["val"].device != node.meta["val"].device:
        return None
    if dtype == x.meta["val"].dtype:
        return x
    if node.kwargs == {"dtype": dtype}:
        return None
    return _call(node, aten._to_copy.default, x, dtype=dtype)


_SPELLINGS: dict[Any, Callable[[Node], Node | None]] = {
    aten.view.default: _to_reshape,
    aten._unsafe_view.default: _to_reshape,
    aten._softmax.default: _to_softmax(aten.softmax.int),
    aten._log_softmax.default: _to_softmax(aten.log_softmax.int),
    aten.convolution.default: _to_convolution,
    aten.add.Scalar: _to_tensor_overload(aten.add.Tensor),
    aten.sub.Scalar: _to_tensor_overload(aten.sub.Tensor),
    aten.mul.Scalar: _to_tensor_overload(aten.mul.Tensor),
    aten.div.Scalar: _to_tensor_overload(aten.div.Tensor),
    aten._to_copy.default: _to_cast,
    aten.copy.default: _to_expand,
    aten.full.default: _without_defaults,
    aten.full_like.default: _without_defaults,
    aten.scalar_tensor.default: _without_defaults,
    aten.arange.start_step: _without_defaults,
    aten.alias.default: _first_argument,
    aten.clone.default: _first_argument,
    aten.detach.default: _first_argument,
    aten.lift_fresh_copy.default: _first_argument,
    operator.getitem: _to_batch_norm,
}

ASSERTIONS: Iterable[Any] = (
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten._assert_async.msg,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
)
"""Ops that compute nothing: they check at run time what the runtime's input check already guarantees."""
