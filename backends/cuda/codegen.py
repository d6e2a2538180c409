"""From kernels to CUDA C++: TIR lowered as it is written, and what the compiler said of each function."""

from __future__ import annotations

import re
from collections.abc import Mapping

import tvm
from tvm import tirx

from .architectures import Architecture
from .kernels.base import CudaKernel

_DEVICE_FUNCTION = 2  # tvm::CallingConv::kDeviceKernelLaunch

# TIR's max is `a > b ? a : b` wherever LLVM makes the code, and kernels rely on it to let NaN flow; CUDA's drops NaN
_EXTREMES = """
template <typename T> __forceinline__ __device__ T larger(T a, T b) { return a > b ? a : b; }
template <typename T> __forceinline__ __device__ T smaller(T a, T b) { return a < b ? a : b; }
#define max(a, b) larger(a, b)
#define min(a, b) smaller(a, b)
"""

# dynamic shared memory is one variable of C++, which cannot have another type in each function
_ONE_SHARED_TYPE = re.compile(r"extern __shared__ __align__\(\d+\) ([\w ]+?) (\w+)\[\];")
_SHARED = r"extern __shared__ __align__(128) unsigned char dynamic_shared[]; \1* \2 = (\1*)dynamic_shared;"


def device_module(kernels: Mapping[str, CudaKernel], architecture: Architecture) -> tvm.IRModule:
    """The lowered TIR of device functions named by the keys of `kernels`."""
    target = tvm.target.Target({"kind": "cuda", "arch": architecture.name})
    functions = {}
    for name, kernel in kernels.items():
        function = kernel.prim_func().with_attrs(
            {
                "target": target,
                "calling_conv": _DEVICE_FUNCTION,
                "tirx.is_global_func": True,
                "global_symbol": name,
            }
        )
        functions[tvm.ir.GlobalVar(name)] = function
    passes = [
        tirx.transform.StmtSimplify(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.UnrollLoop(),
        tirx.transform.StmtSimplify(),
        tirx.transform.LowerIntrin(),
    ]
    return tvm.ir.transform.Sequential(passes)(tvm.IRModule(functions))


def cuda_source(module: tvm.IRModule) -> str:
    """The CUDA C++ of a lowered module; its functions have C linkage."""
    target = next(iter(module.functions.values())).attrs["target"]
    tvm.register_global_func("tvm_callback_cuda_compile", _not_compiled, override=True)
    built = tvm.get_global_func("target.build.cuda")(module, target)
    header, functions, rest = str(built.inspect_source()).partition('extern "C"')
    return header + _EXTREMES + _ONE_SHARED_TYPE.sub(_SHARED, functions + rest)


def _not_compiled(*_: object) -> bytes:
    # the text is what is wanted; code for several architectures is made of it later
    return b"none"
