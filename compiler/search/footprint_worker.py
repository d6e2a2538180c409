"""The process that footprint.py measures: python -m fxpress.search.footprint_worker FILE THREADS. No PyTorch in it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ..runtime import load

MOST_CALLS = 10_000
"""In one go: there is nothing to learn from more."""


def main(path: Path, threads: int | None) -> None:
    """Answer the lines of standard input until it ends."""
    artifact = load(path, num_threads=threads)
    inputs = artifact.sample_inputs()
    for line in sys.stdin:
        request, *rest = line.split()
        if request == "time":
            print(json.dumps(_times(lambda: artifact.run_flat(*inputs), float(rest[0]))), flush=True)
        else:
            artifact.run_flat(*inputs)
            print(_most_resident(), flush=True)


def _most_resident() -> int:
    """The most bytes resident since this program began; getrusage would count the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _times(call: object, seconds: float) -> list[float]:
    assert callable(call)
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    begin = time.perf_counter()
    while not times or (begin < end and len(times) < MOST_CALLS):
        call()
        now = time.perf_counter()
        times.append(now - begin)
        begin = now
    return times


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) or None)
