"""linear(x, w), conv(x, w)  ->  narrow_linear(to(x), to(w)), narrow_conv(to(x), to(w)), in a 16-bit float

embedding(w, i)  ->  to(embedding(to(w), i))
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.fx import Node

from ...errors import InvalidInput
from ...ops import fxpress
from ...program import Program
from ...rewriter import Accuracy, Pass, Rewriter
from ...search.ranges import Choice, search
from ..match import arguments, dtype, is_constant
from .scopes import Scope, select

aten = torch.ops.aten

NARROW = {
    fxpress.linear.default: fxpress.narrow_linear.default,
    fxpress.conv.default: fxpress.narrow_conv.default,
}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class NarrowFloats(Pass):
    """linear(x, w), conv(x, w)  ->  narrow_linear(to(x), to(w)), narrow_conv(to(x), to(w)), in a 16-bit float

    Products are those of 16-bit floats, sums float32 (Kalamkar et al., "A Study of BFLOAT16 for Deep Learning
    Training", arXiv:1905.12322). Weights are stored in 16 bits. A result stays in 16 bits where only such layers read
    it; all other ops, biases and residuals are float32. Embedding tables are stored in 16 bits too. Grouped
    convolutions stay float32: they have few weights; so do layers whose weights are not finite in 16 bits. `skip` names
    the nodes that stay as they are.
    """

    name: ClassVar[str] = "narrow-floats"
    accuracy: ClassVar[Accuracy] = "lossy"
    dtype: str = field(default="bfloat16", metadata=search(Choice(("bfloat16", "float16"))))
    skip: Container[str] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidInput(f"dtype must be one of {sorted(DTYPES)}, not {self.dtype!r}")

    def options(self) -> dict[str, Any]:
        return {"dtype": self.dtype}

    def run(self, program: Program, rw: Rewriter) -> None:
        narrow = DTYPES[self.dtype]
        for node in program.nodes:
            if node.target is aten.embedding.default and node.name not in self.skip and rw.has_fuel():
                _narrow_table(node, narrow, rw)
        layers = [n for n in program.nodes if n.name not in self.skip and _why_wide(n, rw, narrow) is None]
        held: dict[Node, Node] = {}  # float32 values that are there in 16 bits too
        for node in layers:
            if not rw.has_fuel():
                return
            a = arguments(node)
            x, weight = a["x"], rw.value(a["weight"])
            assert weight is not None
            if x not in held:
                held[x] = rw.call(aten._to_copy.default, x, dtype=narrow, at=node)
            stored = rw.constant(f"{a['weight'].target}_{self.dtype}", weight.to(narrow))
            alone = all(user in layers and _reads_as_x(user, node) for user in node.users)
            changed = a | {"x": held[x], "weight": stored}
            last = [changed.pop("channels_last")] if "channels_last" in changed else []
            result = narrow if alone else torch.float32
            new = rw.call(NARROW[node.target], *changed.values(), result, *last, at=node)
            rw.burn()
            if not alone:
                rw.replace(node, new)
                continue
            wide = rw.call(aten._to_copy.default, new, dtype=torch.float32, at=node)
            held[wide] = new
            rw.replace(node, wide)


def _narrow_table(node: Node, narrow: torch.dtype, rw: Rewriter) -> None:
    table = node.args[0]
    if not is_constant(table) or dtype(table) != torch.float32:
        return
    stored = rw.constant(f"{table.target}_{str(narrow).removeprefix('torch.')}", rw.program.constant(table).to(narrow))
    rows = rw.call(aten.embedding.default, stored, *node.args[1:], at=node, **node.kwargs)
    rw.burn()
    rw.replace(node, rw.call(aten._to_copy.default, rows, dtype=torch.float32, at=node))


def left_wide(program: Program, ignore: Sequence[Scope], only: Sequence[Scope]) -> frozenset[str]:
    """The names of the layers that scopes keep in float32. Raises InvalidInput when a scope matches nothing."""
    layers = [n for n in program.nodes if n.op == "call_function" and n.target in (*NARROW, aten.embedding.default)]
    out = select(layers, ignore, "ignore") if ignore else set()
    if only:
        out = out | (set(layers) - select(layers, only, "only"))
    return frozenset(node.name for node in out)


def _why_wide(node: Node, rw: Rewriter, narrow: torch.dtype) -> str | None:
    """Why a node is not narrowed; None when it is."""
    if node.op != "call_function" or node.target not in NARROW:
        return "no layer"
    a = arguments(node)
    if not is_constant(a["weight"]) or dtype(a["weight"]) != torch.float32 or dtype(a["x"]) != torch.float32:
        rw.skip(node, "stays float32: its weight is computed, or it is not float32")
        return "operands"
    if a.get("groups", 1) != 1:
        rw.skip(node, "stays float32: its channels are in groups")
        return "groups"
    if not bool(rw.program.constant(a["weight"]).to(narrow).isfinite().all()):
        rw.skip(node, f"stays float32: its weight holds numbers that are not finite in {str(narrow)[len('torch.') :]}")
        return "range"
    return None


def _reads_as_x(user: Node, node: Node) -> bool:
    a = arguments(user)
    return bool(a["x"] is node and a["residual"] is not node)
