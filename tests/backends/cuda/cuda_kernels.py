"""CUDA kernels run without a GPU: by the evaluator of lowered TIR, alone or as the functions of a driver."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from fxpress.backends.cuda.architectures import ARCHITECTURES
from fxpress.backends.cuda.check import Report, evaluate
from fxpress.backends.cuda.codegen import device_module
from fxpress.backends.cuda.kernels.base import CudaKernel
from fxpress.errors import OutOfMemory
from fxpress.runtime.cuda.driver import Device

NUMPY = {
    "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "tf32": np.float32,
    "int8": np.int8, "int32": np.int32, "int64": np.int64, "bool": np.bool_, "uint8": np.uint8,
}  # fmt: skip
EPSILON = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def run(kernel: CudaKernel, *arrays: np.ndarray, arch: str = "sm_80") -> Report:
    """Evaluate a kernel on arrays, its outputs written in place."""
    (function,) = device_module({"kernel": kernel}, ARCHITECTURES[arch]).functions.values()
    return evaluate(function, *arrays)


def small_integers(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> np.ndarray:
    """Numbers whose products and sums every dtype holds exactly."""
    return rng.integers(-3, 4, tuple(shape)).astype(NUMPY[dtype])


class EvaluatingDriver:
    """A driver whose device is this machine's memory, and whose launches are evaluated."""

    def __init__(
        self, kernels: Mapping[str, CudaKernel], capability: tuple[int, int] = (8, 0), memory: int = 1 << 30
    ) -> None:
        self.device = Device(0, "an evaluated GPU", capability, memory)
        self._kernels = kernels
        self._functions = device_module(kernels, ARCHITECTURES["sm_80"])
        self._blocks: dict[int, np.ndarray] = {}
        self.launched: list[str] = []

    def enter(self) -> None:
        pass

    def load(self, code: bytes) -> bytes:
        return code

    def function(self, module: bytes, name: str, shared: int) -> str:
        assert self._kernels[name].launch().shared == shared
        return name

    def allocate(self, size: int) -> int:
        if size > self.device.memory:
            raise OutOfMemory(f"{size} bytes are more than {self.device.memory}")
        block = np.full(-(-size // 16) * 16 + 16, 0xA5, np.uint8)  # 16 more: there is always memory behind an address
        self._blocks[block.ctypes.data] = block
        return block.ctypes.data

    def free(self, address: int) -> None:
        del self._blocks[address]

    def fill_zero(self, address: int, size: int, stream: int) -> None:
        ctypes.memset(address, 0, size)

    def upload(self, address: int, source: int, size: int, stream: int) -> None:
        ctypes.memmove(address, source, size)

    def download(self, target: int, address: int, size: int, stream: int) -> None:
        ctypes.memmove(target, address, size)

    def launch(self, name: str, grid: Any, threads: int, shared: int, stream: int, parameters: Any) -> None:
        kernel = self._kernels[name]
        assert (tuple(grid), threads, shared) == (
            kernel.launch().grid,
            kernel.launch().threads,
            kernel.launch().shared,
        )
        addresses = [ctypes.c_uint64.from_address(pointer).value for pointer in parameters]
        arrays = [self._behind(a, op.dtype) for a, op in zip(addresses, kernel.operands(), strict=True)]
        evaluate(self._function(name), *arrays)
        self.launched.append(name)

    def wait(self, stream: int) -> None:
        pass

    def _function(self, name: str) -> Any:
        return next(f for symbol, f in self._functions.functions.items() if symbol.name_hint == name)

    def _behind(self, address: int, dtype: str) -> np.ndarray:
        """All memory of the allocation from the address on."""
        for start, block in self._blocks.items():
            if start <= address < start + block.nbytes:
                rest = block[address - start :]
                item = np.dtype(NUMPY[dtype]).itemsize
                return rest[: rest.nbytes // item * item].view(NUMPY[dtype])
        raise AssertionError(f"address {address:#x} is in no allocation")
