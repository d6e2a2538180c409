"""weight  ->  unpack_blocks(values, columns, pointers), or unpack_masked(values, mask): zeros are not stored

Whether a weight is worth it is found in its numbers, so that zeros of any origin count: it must have enough of them,
in blocks that the kernels of the target skip, or anywhere if memory bounds the layer (compiler/sparsity.py). Where no
kernel gains, a weight may still be stored without its zeros, to be expanded when the artifact is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from ...cpu import CpuTarget
from ...integer_sparsity import integer_form
from ...ops import fxpress
from ...ops.sparse import pack_blocks, pack_masked
from ...program import Program
from ...rewriter import Pass, Rewriter
from ...sparsity import Form, Use, are_streamed, sparse_form, uses_winograd
from ..match import arguments, is_call

SMALLEST = 1 << 14
"""Weights with fewer elements stay: without their zeros they would be folded to a constant again."""
FEWEST_ZEROS = 0.05
"""With a smaller share of zeros a weight is not one that was pruned, and nothing is said about it."""
MOST_STORED = 0.75
"""Of the bytes, for a weight that only the file stores without its zeros: expanding it takes time at load."""

FORMS: dict[torch.dtype, Callable[[Tensor, list[Use], CpuTarget], Form | None]] = {
    torch.float32: sparse_form,
    torch.int8: integer_form,
}
"""For each dtype of weights how their best form is found."""

LINEARS = (
    fxpress.linear.default,
    fxpress.quantized_linear.default,
    fxpress.quantized_linear_float.default,
)
CONVS = (fxpress.conv.default, fxpress.quantized_conv.default, fxpress.quantized_conv_float.default)


@dataclass(frozen=True)
class PackSparse(Pass):
    """conv(x, w)  ->  conv(x, unpack_blocks(...)) or conv(x, unpack_masked(...)) of a w with zeros; linear likewise

    Only for CPUs. The weight is the same number for number, but for the sign of zeros.
    """

    name: ClassVar[str] = "pack-sparse"

    def run(self, program: Program, rw: Rewriter) -> None:
        if not isinstance(rw.target, CpuTarget):
            return
        streamed = are_streamed(program, rw.target)
        for node in program.nodes:
            if node.op == "get_attr" and node.meta["val"].dtype in FORMS and rw.has_fuel():
                self._pack(node, rw, rw.target, streamed)

    def _pack(self, node: Node, rw: Rewriter, target: CpuTarget, streamed: bool) -> None:
        if not any(is_call(user, *LINEARS, *CONVS) and arguments(user)["weight"] is node for user in node.users):
            return
        weight = rw.program.constant(node)
        left = float(weight.ne(0).double().mean()) if weight.numel() else 1.0
        if left > 1 - FEWEST_ZEROS:
            return
        if weight.numel() < SMALLEST:
            rw.skip(node, f"stays dense: it has fewer than {SMALLEST} elements")
            return
        if not _is_weight(node):
            rw.skip(node, "stays dense: more than the layers of which it is the weight read it")
            return
        form = FORMS[weight.dtype](weight, [_use(user, streamed, target) for user in node.users], target)
        if form is None:
            form = _stored(weight, left)
        if form is None:
            rw.skip(node, f"stays dense: {left:.1%} of it is left, too much for a sparse kernel and for a smaller file")
            return
        rw.burn()
        rw.log.append(f"%{node.name}: {form.why}")
        rw.replace(node, _packed(node, weight, form, rw))


def _packed(node: Node, weight: Tensor, form: Form, rw: Rewriter) -> Node:
    """The op that unpacks the weight from constants in that form."""
    first = next(user for user in rw.program.nodes if user in node.users)

    def constants(names: Sequence[str], parts: Sequence[Tensor]) -> list[Node]:
        return [rw.constant(f"{node.target}_{name}", part) for name, part in zip(names, parts, strict=True)]

    if not form.r:
        held = constants(("values", "mask"), pack_masked(weight))
        return rw.call(fxpress.unpack_masked.default, *held, list(weight.shape), at=first)
    held = constants(("values", "columns", "pointers"), pack_blocks(weight, form.r, form.c))
    return rw.call(fxpress.unpack_blocks.default, *held, list(weight.shape), at=first)


def _stored(weight: Tensor, left: float) -> Form | None:
    """The form of a weight that is dense again once it is loaded, or None where it would not be small enough."""
    share = left + 1 / (8 * weight.element_size())
    if share > MOST_STORED:
        return None
    return Form(0, 0, f"no kernel gains by the {1 - left:.1%} of it that are zero; stored in {share:.1%} of its bytes")


def _is_weight(node: Node) -> bool:
    """Whether a constant is the weight of layers and nothing else."""
    return all(
        is_call(user, *LINEARS, *CONVS) and arguments(user)["weight"] is node and user.all_input_nodes.count(node) == 1
        for user in node.users
    )


def _use(layer: Node, streamed: bool, target: CpuTarget) -> Use:
    """What of a layer decides about its weight."""
    a = arguments(layer)
    n, inputs, *kernel = a["weight"].meta["val"].shape
    result = layer.meta["val"].shape
    rows = result.numel() // n
    if layer.target in LINEARS:
        return Use(True, rows, streamed=streamed)
    linear = a["groups"] == 1 and all(size == 1 for size in kernel) and not any(a["padding"])
    image = result[1:-1] if a["channels_last"] else result[2:]
    shape = (result[0], *image, inputs, n)
    winograd = len(kernel) == 2 and uses_winograd(kernel, a["stride"], a["dilation"], shape, target)
    return Use(linear, rows, a["groups"], winograd, streamed)
