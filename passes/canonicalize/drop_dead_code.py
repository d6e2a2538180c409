"""what no result depends on  ->  nothing"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...program import Program
from ...rewriter import Pass, Rewriter


@dataclass(frozen=True)
class DropDeadCode(Pass):
    """calls and constants that no result depends on  ->  nothing"""

    name: ClassVar[str] = "drop-dead-code"

    def run(self, program: Program, rw: Rewriter) -> None:
        for node in reversed(program.nodes):
            if node.op in ("call_function", "get_attr") and not node.users and not rw.erased(node) and rw.has_fuel():
                rw.erase(node)
                rw.burn()
