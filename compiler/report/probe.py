"""Measure what this machine can do, in a process of its own: `python -m fxpress.report.probe THREADS`.

Peak arithmetic is the best rate of NumPy's float32 matrix product (its BLAS) on one thread, times the threads: what
good code reaches, not a data sheet's number, so a kernel may reach a little more. The products are short, so that one
of many runs undisturbed on a busy machine. Peak memory traffic is the best rate of copies of large arrays, all threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

HOW = "the best of NumPy's float32 matrix products on one thread, times the threads"
_THREAD_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SECONDS = 0.25  # spent on each measurement, at least
_FEWEST_RUNS = 20
_SIZE = 384  # rows and columns of the matrices: they fit in an L2 cache
_COPY_BYTES = 32 << 20  # each thread's array


@dataclass(frozen=True)
class Peaks:
    """The most that `threads` threads of this machine were seen to do."""

    flops_per_second: float
    bytes_per_second: float
    threads: int


def measure_peaks(threads: int) -> Peaks:
    """Run the probe for `threads` threads, in a process of its own: a BLAS takes its number of threads at the start."""
    environment = {**os.environ, **dict.fromkeys(_THREAD_SETTINGS, "1")}
    command = [sys.executable, "-m", __name__, str(threads)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return Peaks(**json.loads(result.stdout))


def _probe(threads: int) -> Peaks:
    a, b = np.ones((2, _SIZE, _SIZE), np.float32)
    out = np.empty_like(a)
    product = _best_seconds(lambda: np.matmul(a, b, out=out))
    sources = [np.ones(_COPY_BYTES, np.uint8) for _ in range(threads)]
    copies = [np.ones_like(source) for source in sources]
    with ThreadPoolExecutor(threads) as pool:
        copy = _best_seconds(lambda: list(pool.map(np.copyto, copies, sources)))
    return Peaks(threads * 2 * _SIZE**3 / product, 2 * threads * _COPY_BYTES / copy, threads)


def _best_seconds(call: Callable[[], object]) -> float:
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end or len(times) < _FEWEST_RUNS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    print(json.dumps(_probe(int(sys.argv[1])).__dict__))
