"""The CUDA backend: lowers a Program to our kernels, which nvcc compiles."""

from __future__ import annotations

from torch.fx import Node

from ...errors import InvalidInput, Unsupported
from ...program import Program
from ...target import Target
from ..base import YES, Backend, Support
from ..tvm.graph_lowering import unsupported_reason
from .build import CudaLowered
from .lowering import CudaLowering
from .lowerings import RULES
from .target import CudaTarget


class CudaBackend(Backend):
    """Compiles for NVIDIA GPUs, on machines with nvcc; no GPU is needed."""

    name = "cuda"

    def supports(self, node: Node, target: Target) -> Support:
        reason = unsupported_reason(node, _cuda(target), RULES)
        return YES if reason is None else Support(False, reason)

    def lower(self, program: Program, target: Target, *, fallback: str | None = None) -> CudaLowered:
        if fallback is not None:
            raise Unsupported(
                f"fallback must be None for CUDA, not {fallback!r}: calls of PyTorch between kernels are not supported"
            )
        if program.is_dynamic:
            raise Unsupported(
                "a Program with symbolic sizes cannot be compiled for CUDA; capture it without dynamic_shapes, once "
                "for each shape"
            )
        lowering = CudaLowering(program, _cuda(target), RULES)
        lowering.run()
        return CudaLowered(lowering)


def _cuda(target: Target) -> CudaTarget:
    if not isinstance(target, CudaTarget):
        raise InvalidInput(f"target of the CUDA backend must be a GPU, not {target}; name one, for example 'cuda'")
    return target
