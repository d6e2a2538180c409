"""Where values should lie, found before any is placed: with a halo, inside a concatenation, or in an output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from ... import ops as _ops  # noqa: F401  (defines torch.ops.fxpress)
from ...arguments import arguments
from ...program import Program

aten = torch.ops.aten
fxpress = torch.ops.fxpress

BIAS = 128
"""What is added to int8 values that are held as uint8."""


FLOAT_CONVS = (fxpress.conv.default, fxpress.narrow_conv.default)
QUANTIZED_CONVS = (fxpress.quantized_conv.default, fxpress.quantized_conv_float.default)


@dataclass(frozen=True)
class Halo:
    """A border: its width before and after each spatial dim, what it is filled with, whether the value is biased."""

    pads: tuple[int, ...]
    fill: int = 0
    biased: bool = False


def halo_demand(program: Program) -> dict[Node, Halo]:
    """The halo that each value should be stored with: the most that any convolution reading it needs.

    Quantised convolutions read biased values, and a zero point where there is padding.
    """
    demand: dict[Node, Halo] = {}
    for node in program.graph.nodes:
        quantized = node.target in QUANTIZED_CONVS
        if not quantized and node.target not in FLOAT_CONVS:
            continue
        a = arguments(node)
        if not a["channels_last"] or not any(a["padding"]):
            continue
        source, pads, fill = a["x"], tuple(a["padding"]), a["x_zero"] + BIAS if quantized else 0
        known = demand.get(source, Halo((0,) * len(pads), fill, quantized))
        if (known.fill, known.biased) == (fill, quantized):  # one that reads another zero point gets a copy
            widest = tuple(max(one, other) for one, other in zip(known.pads, pads, strict=True))
            demand[source] = Halo(widest, fill, quantized)
    return demand


def concatenation_slots(program: Program) -> dict[Node, tuple[Node, int, int]]:
    """Values that may be computed in place inside a concatenation: value -> (concatenation, dim, start).

    Those are its operands that nothing else reads and that occur in it once. The last dimension must stay dense, which
    it does in any slice.
    """
    slots: dict[Node, tuple[Node, int, int]] = {}
    results = set(program.results)
    for node in program.graph.nodes:
        if node.target != aten.cat.default:
            continue
        operands = list(node.args[0])
        rank = node.meta["val"].dim()
        dim = (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) % max(rank, 1)
        start = 0
        for operand in operands:
            value = operand.meta["val"]
            if value.dim() != rank:
                break  # the legacy empty operand that PyTorch ignores
            alone = len(operand.users) == 1 and operands.count(operand) == 1 and operand not in results
            if alone and value.dtype == node.meta["val"].dtype:
                slots[operand] = (node, dim, start)
            start += value.shape[dim]
    return slots


def result_places(program: Program) -> dict[Node, int]:
    """Values that may be computed in the memory of an output: value -> number of the output.

    Those are the results, and what a result shows in the same order through views.
    """
    places: dict[Node, int] = {}
    for index, result in enumerate(program.results):
        node = result
        while node.op == "call_function" and _keeps_order(node):
            node = node.args[0]
        places.setdefault(node, index)
    return places


def _keeps_order(node: Node) -> bool:
    """Whether a node is a view that shows all elements of its source in the same order."""
    if node.target == aten.permute.default:
        sizes = node.args[0].meta["val"].shape
        moved = [d % len(sizes) for d in node.args[1] if sizes[d] != 1]
        return bool(moved == sorted(moved))
    return bool(node.target == aten.reshape.default)
