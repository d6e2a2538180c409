"""Compile one kernel and run it on numpy arrays: how kernels are tested and timed on their own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tvm

from ....cpu import EXTENSIONS, ISAS, CpuTarget
from ....runtime.threads import use_threads
from .base import Call, Kernel, run_module


def llvm_target(target: CpuTarget, extensions: Iterable[str] = ()) -> Any:
    """The TVM target that code for `target` is generated with, using these of its extensions."""
    attributes = [EXTENSIONS[name].attribute for name in sorted(extensions)]
    options = {"kind": "llvm", "mcpu": ISAS[target.isa].mcpu, "num-cores": target.cores}
    return tvm.target.Target(options | ({"mattr": attributes} if attributes else {}))


def build(module: Any, target: CpuTarget, extensions: Iterable[str] = ()) -> Any:
    """Compile a module of kernels for `target`; `extensions` are those that the kernels need.

    Storage rewriting is off: merging two allocations of different size drops the annotation that keeps `Registers`
    on the stack, and the code then fails to lower.
    """
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_storage_rewrite": True}):
        return tvm.compile(module, llvm_target(target, extensions))


class CompiledKernel:
    """A kernel ready to call: `CompiledKernel(kernel, target)(*arrays)`, outputs written in place."""

    def __init__(self, kernel: Kernel, target: CpuTarget) -> None:
        operands = kernel.operands()
        self._operands = operands
        self._cores = target.cores
        call = Call(kernel, tuple((i, 0) for i in range(len(operands))))
        self._library = build(run_module([call], len(operands)), target, kernel.extensions())
        self._run = self._library["run"]

    def __call__(self, *arrays: np.ndarray) -> None:
        self._run(self._table(arrays), 0, 1)

    def _table(self, arrays: Sequence[np.ndarray]) -> Any:
        use_threads(self._cores)  # of the calling thread; TVM would take all the machine's and pin them
        if len(arrays) != len(self._operands):
            raise ValueError(f"kernel takes {len(self._operands)} operands, not {len(arrays)}")
        for array, operand in zip(arrays, self._operands, strict=True):
            if str(array.dtype) != operand.dtype and not (operand.dtype == "bool" and array.dtype == np.bool_):
                raise ValueError(f"operand {operand.name} must be {operand.dtype}, not {array.dtype}")
        return tvm.runtime.tensor(np.array([a.ctypes.data for a in arrays], dtype=np.int64))

    def seconds(self, *arrays: np.ndarray, repeat: int = 15, budget: float = 0.3) -> float:
        """Median time of a call, its data hot in cache."""
        table, run = self._table(arrays), self._run
        run(table, 0, 1)
        start = time.perf_counter()
        run(table, 0, 1)
        once = max(time.perf_counter() - start, 1e-7)
        number = max(1, int(budget / repeat / once))
        samples = []
        for _ in range(repeat):
            start = time.perf_counter()
            for _ in range(number):
                run(table, 0, 1)
            samples.append((time.perf_counter() - start) / number)
        return float(np.median(samples))
