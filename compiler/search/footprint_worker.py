"""The process that footprint.py measures: python -m fxpress.search.footprint_worker FILE THREADS. No PyTorch in it."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from ..report.timing import call_times
from ..runtime import load

MOST_CALLS = 10_000
"""In one go: there is nothing to learn from more."""


def main(path: Path, threads: int | None) -> None:
    """Answer the lines of standard input until it ends."""
    artifact = load(path, num_threads=threads)
    call = partial(artifact.run_flat, *artifact.sample_inputs())
    for line in sys.stdin:
        request, *rest = line.split()
        if request == "time":
            call()  # the caches hold another artifact's
            print(json.dumps(call_times(call, float(rest[0]), MOST_CALLS)), flush=True)
        else:
            call()
            print(_most_resident(), flush=True)


def _most_resident() -> int:
    """The most bytes resident since this program began; getrusage would count the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) or None)
