"""The reference backend: the PyTorch interpreter, the living definition of what a Program means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.fx import Node

from ...errors import Unsupported
from ...program import Program
from ...target import Target
from ..base import YES, Backend, Lowered, Support


@dataclass
class ReferenceLowered(Lowered):
    """The Program itself."""

    program: Program

    def text(self) -> str:
        return self.program.text()

    def build(
        self,
        path: Path,
        reference: Program,
        *,
        bundle_runtime: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        raise Unsupported(
            "the reference backend builds no artifact; call program.run(...), or compile for another target"
        )


class ReferenceBackend(Backend):
    """Runs every op in PyTorch."""

    name = "reference"

    def supports(self, node: Node, target: Target) -> Support:
        return YES

    def lower(self, program: Program, target: Target, *, fallback: str | None = None) -> ReferenceLowered:
        return ReferenceLowered(program)
