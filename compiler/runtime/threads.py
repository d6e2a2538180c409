"""How many threads TVM's pool uses. The pool belongs to the calling thread, so this is set once per thread."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

from ..cpu import physical_cores
from ..errors import InvalidInput
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
    A pool that other users of TVM made before in the same thread may be smaller and then stays so, and after a fork
    the thread that forked works alone.
    """
    if setting.used != count:
        set_limit, ffi = _set_limit(), tvm_ffi()
        if not setting.used:
            set_limit(max(count, physical_cores()))
            setting.size = ffi.get_global_func("runtime.NumThreads")()  # creates the pool
        if setting.size > 1:
            ffi.get_global_func("runtime.config_threadpool")(1, count)
        set_limit(min(count, setting.size))  # config_threadpool forgets it; at 1, loops run in the calling thread
        setting.used = count
    return min(count, setting.size)


def _set_limit() -> Any:
    function = runtime_library()._ZN3tvm7runtime9threading17SetMaxConcurrencyEi  # of the calling thread
    function.argtypes, function.restype = [ctypes.c_int], None
    return function


def _after_fork() -> None:
    """A forked process has the pool without its threads: work must not wait for them."""
    if setting.used:
        setting.size = 1
        _set_limit()(1)


os.register_at_fork(after_in_child=_after_fork)
