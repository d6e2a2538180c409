"""What an artifact costs: bytes, time and memory, measured in a process that runs nothing else."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InternalError
from ..machine import this_machine
from ..runtime import load

ROUNDS = 10
"""The artifacts take turns so often, so that all see the same machine."""
QUIET_ROUNDS = 5
"""So many rounds count, those with the least medians: in the others something else ran on the machine."""
_THREADS_OF_OTHERS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Footprint:
    """What one artifact costs.

    `size` is the file's bytes, `latency` and `p99` seconds a call at the median and the 99th percentile of the quieter
    half of rounds, `spread` the distance of the 10th and 90th, relative to the median, `ram` the most bytes resident in
    a process that does nothing but run it, `macs` multiply-accumulates a call, `throughput` items a second, a batch
    being the first input's first dim. Where a model of the machine says what calls cost, `energy` is in joules a call
    and `ram` is not known.
    """

    size: int
    latency: float
    p99: float
    spread: float
    ram: int | None
    macs: int
    throughput: float
    energy: float | None = None

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def measure_footprints(paths: Sequence[Path], *, seconds: float = 1.0, threads: int | None = None) -> list[Footprint]:
    """Measure artifacts in turns, each in its own process, for `seconds` each in all. No other worker computes then."""
    with this_machine().alone():
        return _measured([_Worker(path, threads) for path in paths], seconds)


@dataclass(frozen=True)
class Meter:
    """Measures one artifact for so many `seconds`, run by so many `threads`."""

    seconds: float = 1.0
    threads: int | None = None

    def __call__(self, path: Path) -> Footprint:
        return modelled_footprint(path) or measure_footprints([path], seconds=self.seconds, threads=self.threads)[0]


def modelled_footprint(path: Path) -> Footprint | None:
    """What the model of an artifact's machine says that it costs; None where there is none and it must be measured."""
    with load(path) as artifact:
        found = artifact.modelled()
    if found is None:
        return None
    return replace(_footprint(path, [found.seconds], None), energy=found.joules, macs=found.macs)


def _measured(workers: Sequence[_Worker], seconds: float) -> list[Footprint]:
    try:
        rounds = [[worker.time(seconds / ROUNDS) for worker in workers] for _ in range(ROUNDS)]
        times = [quiet_times(found) for found in zip(*rounds, strict=True)]
        return [_footprint(worker.path, found, worker.memory()) for found, worker in zip(times, workers, strict=True)]
    finally:
        for worker in workers:
            worker.close()


def quiet_times(rounds: Sequence[Sequence[float]]) -> list[float]:
    """The times of the QUIET_ROUNDS rounds with the least medians, together."""
    quiet = sorted(rounds, key=statistics.median)[:QUIET_ROUNDS]
    return [time for times in quiet for time in times]


def _footprint(path: Path, times: list[float], ram: int | None) -> Footprint:
    times = sorted(times)

    def percentile(share: float) -> float:
        return times[min(int(share * len(times)), len(times) - 1)]

    with load(path) as artifact:
        first = artifact.inputs[0].shape if artifact.inputs else ()
        flops = sum(int(layer.get("flops", 0)) for layer in artifact.manifest["layers"])
    median = percentile(0.5)
    batch = first[0] if first else 1
    return Footprint(
        size=path.stat().st_size,
        latency=median,
        p99=percentile(0.99),
        spread=(percentile(0.9) - percentile(0.1)) / median,
        ram=ram,
        macs=flops // 2,
        throughput=batch / median,
    )


class _Worker:
    """A process that loads one artifact and answers lines: "time SECONDS" with times, "memory" with bytes."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self.path = path
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fxpress.search.footprint_worker", str(path), str(threads or 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | _THREADS_OF_OTHERS,
        )

    def time(self, seconds: float) -> list[float]:
        """Seconds of each call, for about so long."""
        found: list[float] = self._ask(f"time {seconds}")
        return found

    def memory(self) -> int:
        """The most bytes that were resident so far."""
        return int(self._ask("memory"))

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it was is seen below
        answer = self._process.stdout.readline()
        if not answer:
            raise InternalError(f"the process that runs {self.path} ended with {self._process.wait()} while measured")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
