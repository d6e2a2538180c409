"""x + table  ->  x + embedding(table, all rows), for large constants, so that rows can be stored as integers"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import ClassVar

import torch
from torch.fx import Node

from ...program import Program
from ...rewriter import Pass, Rewriter
from ...search.ranges import not_searched
from ..match import dtype, is_constant, shape

aten = torch.ops.aten

SHORTEST_ROW = 32
"""A row's scale and number take as many bytes as eight weights: shorter ones would hardly become smaller."""


@dataclass(frozen=True)
class LookUpAddends(Pass):
    """x + table  ->  x + embedding(table, all rows), for constants of at least `smallest` elements

    The places of tokens are often a constant that is added, which is a table that no index looks up. As an embedding
    it gets int8 rows where embeddings do; fold-constants takes one back that stayed as it was.
    """

    name: ClassVar[str] = "look-up-addends"
    smallest: int = field(default=16384, metadata=not_searched("a guard"))

    def run(self, program: Program, rw: Rewriter) -> None:
        for node in program.nodes:
            if node.target is not aten.add.Tensor or not rw.has_fuel():
                continue
            table = next((x for x in (node.args[0], node.args[1]) if self._is_table(x)), None)
            if table is not None:
                self._look_up(table, node, rw)
                rw.burn()

    def _is_table(self, value: object) -> bool:
        if not is_constant(value) or dtype(value) != torch.float32:
            return False
        sizes = shape(value)
        return len(sizes) > 1 and prod(sizes) >= max(self.smallest, 1) and sizes[-1] >= SHORTEST_ROW

    def _look_up(self, table: Node, first: Node, rw: Rewriter) -> None:
        """Let all sums that read the table, of which one is `first`, read its rows."""
        *outer, inner = shape(table)
        value = rw.value(table)
        assert value is not None
        rows = rw.constant(f"{table.target}_rows", value.reshape(-1, inner))
        numbers = rw.constant(f"{table.target}_numbers", torch.arange(prod(outer), dtype=torch.int32).reshape(outer))
        found = rw.call(aten.embedding.default, rows, numbers, at=first)
        for user in [user for user in table.users if user.target is aten.add.Tensor]:
            operands = [found if x is table else x for x in user.args]
            rw.update(user, *operands, **user.kwargs)
