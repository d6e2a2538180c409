"""The TVM backend: Programs become our own TIR kernels and TVM's operators, compiled by LLVM."""

from __future__ import annotations

from torch.fx import Node

from ...cpu import CpuTarget
from ...errors import InvalidInput, Unsupported
from ...program import Program
from ...target import Target
from ..base import YES, Backend, Support
from .build import TvmLowered
from .lowering import Lowering, unsupported_reason
from .lowerings import RULES


class TvmBackend(Backend):
    """Compiles for CPUs with AVX2 or AVX-512."""

    name = "tvm"

    def supports(self, node: Node, target: Target) -> Support:
        reason = unsupported_reason(node, _cpu(target), RULES)
        return YES if reason is None else Support(False, reason)

    def lower(self, program: Program, target: Target, *, fallback: str | None = None) -> TvmLowered:
        if program.is_dynamic:
            raise Unsupported(
                "a Program with symbolic sizes cannot be compiled for the CPU; capture it without dynamic_shapes, once "
                "for each shape"
            )
        lowering = Lowering(program, _cpu(target), RULES, fallback)
        lowering.run()
        return TvmLowered(lowering)


def _cpu(target: Target) -> CpuTarget:
    if not isinstance(target, CpuTarget):
        raise InvalidInput(f"target of the TVM backend must be a CPU, not {target}; name one, for example 'cpu'")
    return target
