"""What calls mean: each module defines some intrinsics of TVM's CUDA backend, by the names they have in TIR."""

from . import async_copy, atomics, barriers, ldmatrix, math, mma, pointers, shuffle

__all__ = ["async_copy", "atomics", "barriers", "ldmatrix", "math", "mma", "pointers", "shuffle"]
