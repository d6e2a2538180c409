"""What each op does with the order of dimensions, and the arguments of its channels-last form.

A node is a *kernel* (runs in either order, much better channels-last), *follows* its operands (its output has the order
of its operands; *broadcast* when operands may have fewer dims), *absorbs* (takes any order, gives the traced one), or
*emits* (takes the traced order, gives any). A node without a role takes and gives the traced order.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import Node

from ... import ops as _ops  # noqa: F401  (defines fxpress::)
from ..match import arguments
from .order import keeps_memory, last_dim, permutation, reorder, shape_of, to_channels_last

aten = torch.ops.aten
fxpress = torch.ops.fxpress

Kind = Literal["kernel", "follow", "broadcast", "absorb", "emit"]
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Role:
    """How a node treats order: `operands` are the inputs whose order matters, by argument name; `changes` the other
    arguments of its channels-last form. `prefers_last` when it works along the channels, dense only channels-last."""

    kind: Kind
    operands: tuple[Node, ...]
    changes: Arguments
    prefers_last: bool = False


KERNELS: dict[Any, tuple[str, ...]] = {
    fxpress.conv.default: ("x", "residual"),
    fxpress.conv_transpose.default: ("x",),
    fxpress.max_pool.default: ("x",),
    fxpress.avg_pool.default: ("x",),
    fxpress.adaptive_avg_pool.default: ("x",),
    fxpress.adaptive_max_pool.default: ("x",),
    fxpress.resize.default: ("x",),
    fxpress.group_norm.default: ("x",),
}
"""Ops with a channels-last kernel, and their operands that are in that order too."""

POINTWISE_TOO = (
    aten.hardswish.default,
    aten._to_copy.default,
    fxpress.quantize.default,
    fxpress.dequantize.default,
)
"""Elementwise ops that PyTorch does not tag as such."""


def role_of(node: Node) -> Role | None:
    """The role of a node, None when it needs the traced order."""
    if node.target is operator.getitem:
        source: Node = node.args[0]
        return Role("follow", (source,), {}) if source.target in _SPLITS and len(shape_of(node)) > 2 else None
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    if node.target in KERNELS:
        return _kernel(node)
    if node.target in _ROLES:
        return _ROLES[node.target](node, arguments(node))
    if (torch.Tag.pointwise in node.target.tags or node.target in POINTWISE_TOO) and len(shape_of(node)) > 2:
        return Role("broadcast", tuple(node.all_input_nodes), {})
    return None


def _kernel(node: Node) -> Role | None:
    values = arguments(node)
    if values["channels_last"]:
        return None
    operands = tuple(values[name] for name in KERNELS[node.target] if values[name] is not None)
    return Role("kernel", operands, {"channels_last": True})


def _by_dim(x: str, *names: str) -> Callable[[Node, Arguments], Role | None]:
    """Ops that keep the rank of operand `x` and whose arguments `names` are dims or lists of them."""

    def role(node: Node, values: Arguments) -> Role | None:
        operands = tuple(values[x]) if isinstance(values[x], (list, tuple)) else (values[x],)
        rank = len(shape_of(operands[0]))
        if rank < 3 or any(len(shape_of(n)) != rank for n in operands):
            return None
        return Role("follow", operands, {name: _map_dims(values[name], rank) for name in names})

    return role


def _map_dims(dims: Any, rank: int) -> Any:
    return last_dim(dims, rank) if isinstance(dims, int) else [last_dim(d, rank) for d in dims]


def _reduction(node: Node, values: Arguments) -> Role | None:
    x, dims = values["self"], values["dim"]
    rank = len(shape_of(x))
    dims = [dims] if isinstance(dims, int) else list(dims or ())
    if rank < 3 or not dims:
        return None
    changes = {"dim": _map_dims(values["dim"], rank)}
    if values["keepdim"]:
        return Role("follow", (x,), changes)
    return _drop_dims(x, dims, changes)


def _select(node: Node, values: Arguments) -> Role | None:
    rank = len(shape_of(values["self"]))
    return _drop_dims(values["self"], [values["dim"]], {"dim": last_dim(values["dim"], rank)}) if rank > 2 else None


def _drop_dims(x: Node, dims: list[int], changes: Arguments) -> Role | None:
    """An op that removes dims: what remains is in the traced order, or itself channels-last, or neither."""
    rank = len(shape_of(x))
    removed = {d % rank for d in dims}
    kept = [d for d in range(rank) if d not in removed]
    kept_last = [d for d in to_channels_last(rank) if d not in removed]
    if kept == kept_last:
        return Role("absorb", (x,), changes)
    if len(kept) > 2 and reorder(kept, to_channels_last(len(kept))) == kept_last:
        return Role("follow", (x,), changes)
    return None


def _squeeze(node: Node, values: Arguments) -> Role | None:
    x = values["self"]
    rank = len(shape_of(x))
    dims = [values["dim"]] if isinstance(values["dim"], int) else list(values["dim"])
    if rank < 3 or any(shape_of(x)[d] != 1 for d in dims):
        return None
    return _drop_dims(x, dims, {"dim": _map_dims(values["dim"], rank)})


def _unsqueeze(node: Node, values: Arguments) -> Role | None:
    """A new spatial dim follows; the first one, after batch and channels, emits."""
    rank = len(shape_of(node))
    dim = values["dim"] % rank
    if rank < 3 or dim < 2:
        return None
    return Role("emit" if rank == 3 else "follow", (values["self"],), {"dim": last_dim(dim, rank)})


def _softmax(node: Node, values: Arguments) -> Role | None:
    rank = len(shape_of(node))
    if rank < 3:
        return None
    return Role("follow", (values["self"],), {"dim": last_dim(values["dim"], rank)}, values["dim"] % rank == 1)


def _pad(node: Node, values: Arguments) -> Role | None:
    rank = len(shape_of(node))
    if rank < 3:
        return None
    pairs = [list(values["pad"][i : i + 2]) for i in range(0, len(values["pad"]), 2)][::-1]
    pairs = [[0, 0] for _ in range(rank - len(pairs))] + pairs
    moved = reorder(pairs, to_channels_last(rank))
    while len(moved) > 1 and not any(moved[0]):
        del moved[0]
    return Role("follow", (values["self"],), {"pad": [size for pair in reversed(moved) for size in pair]})


def _expand(node: Node, values: Arguments) -> Role | None:
    rank = len(shape_of(node))
    if rank < 3 or len(shape_of(values["self"])) != rank:
        return None
    return Role("follow", (values["self"],), {"size": reorder(values["size"], to_channels_last(rank))})


def _reshape(node: Node, values: Arguments) -> Role | None:
    """A reshape of the spatial dims alone follows; one from or to a value with a single pixel or channel is free."""
    x = values["self"]
    before, after = shape_of(x), shape_of(node)
    if not all(isinstance(size, int) for size in (*before, *after)):
        return None
    if len(before) > 2 and len(after) > 2 and before[:2] == after[:2]:
        return Role("follow", (x,), {"shape": reorder(after, to_channels_last(len(after)))})
    if len(before) > 2 and keeps_memory(before, to_channels_last(len(before))):
        return Role("absorb", (x,), {"shape": list(after)})
    if len(after) > 2 and keeps_memory(after, to_channels_last(len(after))):
        return Role("emit", (x,), {"shape": reorder(after, to_channels_last(len(after)))})
    return None


def _permute(node: Node, values: Arguments) -> Role | None:
    """A permute to or from channels-last is no op at all once its operand has the right order; others absorb."""
    order = permutation(node)
    assert order is not None
    rank = len(order)
    if rank < 3:
        return None
    return Role("absorb", (values["self"],), {"dims": [last_dim(d, rank) for d in order]})


_SPLITS = (aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int, aten.chunk.default)

_ROLES: dict[Any, Callable[[Node, Arguments], Role | None]] = {
    aten.permute.default: _permute,
    aten.reshape.default: _reshape,
    aten.expand.default: _expand,
    aten.constant_pad_nd.default: _pad,
    aten.select.int: _select,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.unsqueeze.default: _unsqueeze,
    aten.cat.default: _by_dim("tensors", "dim"),
    aten.softmax.int: _softmax,
    aten.log_softmax.int: _softmax,
    aten.slice.Tensor: _by_dim("self", "dim"),
    aten.split.Tensor: _by_dim("self", "dim"),
    aten.split_with_sizes.default: _by_dim("self", "dim"),
    aten.chunk.default: _by_dim("self", "dim"),
    aten.flip.default: _by_dim("self", "dims"),
    aten.cumsum.default: _by_dim("self", "dim"),
    aten.index_select.default: _by_dim("self", "dim"),
    aten.mean.dim: _reduction,
    aten.sum.dim_IntList: _reduction,
    aten.amax.default: _reduction,
    aten.amin.default: _reduction,
    aten.var.correction: _reduction,
    aten.any.dim: _reduction,
    aten.argmax.default: _reduction,
    aten.linalg_vector_norm.default: _reduction,
}
