"""How many threads TVM's pool uses. The pool belongs to the calling thread, so this is set once per thread."""

from __future__ import annotations

import ctypes
import threading

from ..errors import InvalidInput
from ..target import physical_cores
from .libraries import runtime_library, tvm_ffi


class _Setting(threading.local):
    used = 0  # threads the pool of this thread is set to use; 0 before it exists
    size = 0  # threads it has


setting = _Setting()


def thread_count(num_threads: int | None) -> int:
    """The number of threads to use: `num_threads`, or the physical cores. Raises InvalidInput for less than 1."""
    if num_threads is None:
        return physical_cores()
    if type(num_threads) is not int or num_threads < 1:
        raise InvalidInput(f"num_threads must be a positive integer or None, not {num_threads!r}")
    return num_threads


def use_threads(count: int) -> int:
    """Let calls made from this thread use `count` threads; return how many they will use.

    TVM fixes the size of a pool when the thread first needs it, and this function makes it as large as the machine.
    A pool that TVM's compiler made before in the same thread may be smaller and then stays so.
    """
    if setting.used == count:
        return min(count, setting.size)
    set_limit = runtime_library()._ZN3tvm7runtime9threading17SetMaxConcurrencyEi
    set_limit.argtypes, set_limit.restype = [ctypes.c_int], None
    ffi = tvm_ffi()
    if not setting.used:
        set_limit(max(count, physical_cores()))
        setting.size = ffi.get_global_func("runtime.NumThreads")()  # creates the pool
    ffi.get_global_func("runtime.config_threadpool")(1, count)
    set_limit(count)  # config_threadpool forgets it; with a limit of 1, loops run in the caller
    setting.used = count
    return min(count, setting.size)
