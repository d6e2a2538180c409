"""From a lowering for CUDA to an artifact: one fat binary, and in the manifest how its functions are launched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from ...errors import InternalError
from ...runtime.container import FATBIN
from ..tvm.graph_lowering import KernelCall
from ..tvm.planned import PlannedLowered
from ..tvm.views import ITEM_SIZES, View
from .architectures import Architecture
from .kernels.base import CudaKernel
from .lowering import CudaLowering
from .nvcc import Usage
from .worker import compile_kernels


@dataclass
class CudaLowered(PlannedLowered):
    """A Program as launches of kernels on planned memory."""

    code_name: ClassVar[str] = FATBIN
    lowering: CudaLowering

    @cached_property
    def kernels(self) -> dict[str, CudaKernel]:
        """The kernels by the names of their functions; equal calls share one."""
        names: dict[CudaKernel, str] = {}
        for call in (*self.lowering.prepare_calls, *self.kernel_calls):
            kernel = call.kernel
            if not isinstance(kernel, CudaKernel):
                raise InternalError(f"a kernel for CUDA must be one of ours for it, not {type(kernel).__name__}")
            if kernel not in names:
                names[kernel] = f"k{len(names)}_{kernel.name.replace('-', '_')}"
        return {name: kernel for kernel, name in names.items()}

    def code(self) -> tuple[bytes, Mapping[str, Any]]:
        target = self.lowering.target
        compiled = compile_kernels(self.kernels, target.architectures)
        check_limits(compiled.usages, self.kernels, target.architectures)
        numbers = {kernel: number for number, kernel in enumerate(self.kernels.values())}
        return compiled.fatbin, {
            "machine": "cuda",
            "features": [],
            "cuda": {
                "architectures": [each.name for each in target.architectures],
                "functions": [_function(name, kernel) for name, kernel in self.kernels.items()],
                "run": [self._launch(call, numbers) for call in self.kernel_calls],
                "prepare": [self._launch(call, numbers) for call in self.lowering.prepare_calls],
            },
        }

    def _launch(self, call: KernelCall, numbers: Mapping[Any, int]) -> list[Any]:
        """A function's number, and for each operand the entry of the address table and the bytes after its address."""
        return [numbers[call.kernel], *([self._entry(view), _byte_offset(view)] for view in call.views)]


def check_limits(
    usages: Iterable[Usage], kernels: Mapping[str, CudaKernel], architectures: Sequence[Architecture]
) -> None:
    """Raises InternalError for a function that the compiler reports to use more than a block can have somewhere."""
    limits = {each.name: each for each in architectures}
    reported = {(usage.function, usage.architecture) for usage in usages}
    missing = [(name, arch) for name in kernels for arch in limits if (name, arch) not in reported]
    if missing:
        raise InternalError(f"nvcc must report what every function uses, but did not for {missing[:3]}")
    for usage in usages:
        architecture, launch = limits[usage.architecture], kernels[usage.function].launch()
        shared = usage.shared + launch.shared
        held = architecture.blocks_at_once(launch.threads, usage.registers, shared)
        if not held or shared > architecture.block_shared:
            raise InternalError(
                f"a block of {usage.function} must fit a multiprocessor of {usage.architecture}, but has "
                f"{launch.threads} threads of {usage.registers} registers and {shared} bytes of shared memory"
            )


def _function(name: str, kernel: CudaKernel) -> dict[str, Any]:
    launch = kernel.launch()
    return {"name": name, "grid": list(launch.grid), "threads": launch.threads, "shared": launch.shared}


def _byte_offset(view: View) -> int:
    return view.storage.offset + view.offset * ITEM_SIZES[view.dtype]
