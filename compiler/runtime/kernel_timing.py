"""Time kernels in a process of its own: `python -m fxpress.runtime.kernel_timing JOB.json` prints seconds as JSON.

A kernel that crashes takes this process down and not the compiler. Kernels take turns, one call a round, so that each
finds the caches as other kernels leave them, and a disturbance hits all of them alike.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import address_of, aligned_zeros
from .libraries import load_module, runtime_library, tvm_ffi
from .tensor_file import Array
from .threads import use_threads

FEWEST_ROUNDS = 5
MOST_ROUNDS = 300
DISTURBED = 1.5  # times the least that the median of an undisturbed kernel may take


def time_kernels(job: dict[str, Any]) -> list[list[float]]:
    """The least seconds of each call of each library of a job, what an empty call takes subtracted.

    The least is what a kernel takes when nothing disturbs it. Where other processes keep the cores busy, threads wait
    for each other much longer than kernels run: then all are timed on one thread, and its seconds shared out among all.
    A job has `libraries` (each the `path` of a library with a function `run(table, begin, end)`, and how many `calls`
    it makes), bytes of `memory` for each entry of the table, `threads`, and the `seconds` to spend.
    """
    runtime_library()
    use_threads(job["threads"])
    memory = [aligned_zeros(size) for size in job["memory"]]
    for block in memory:
        block.fill(0)  # pages that were never written would all be one page
    addresses = np.array([address_of(block) for block in memory], np.int64)
    table = tvm_ffi().from_dlpack(addresses)
    runs = [load_module(Path(each["path"]).read_bytes()).get_function("run") for each in job["libraries"]]
    calls = [(run, number) for run, each in zip(runs, job["libraries"], strict=True) for number in range(each["calls"])]
    empty = min(_seconds(runs[0], table, 0, 0) for _ in range(100))
    rounds = _rounds(calls, table, job["seconds"])
    least, usual = rounds.min(axis=0), np.median(rounds, axis=0)
    if job["threads"] > 1 and np.median(usual / least) > DISTURBED:
        use_threads(1)
        least = _rounds(calls, table, job["seconds"]).min(axis=0) / job["threads"]
    seconds = iter(np.maximum(least - empty, 0.0).tolist())
    return [[next(seconds) for _ in range(each["calls"])] for each in job["libraries"]]


def _rounds(calls: Sequence[tuple[Any, int]], table: Any, seconds: float) -> Array:
    """The seconds of each call in each of several rounds, as many as there is time for."""
    for run, number in calls:
        run(table, number, number + 1)  # a first call makes threads and workspaces
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < FEWEST_ROUNDS or (time.perf_counter() < end and len(rounds) < MOST_ROUNDS):
        rounds.append([_seconds(run, table, number, number + 1) for run, number in calls])
    return np.array(rounds)


def _seconds(run: Any, table: Any, begin: int, end: int) -> float:
    start = time.perf_counter()
    run(table, begin, end)
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(time_kernels(json.loads(Path(sys.argv[1]).read_text()))))
