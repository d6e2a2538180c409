"""What a compiled Program costs: seconds of a call, bytes of constants, memory of a run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...api import compile as compile_program
from ...cpu import CpuTarget
from ...errors import Unsupported
from ...kernel_times import is_this_machine
from ...memory_use import MemoryUse
from ...pass_manager import PassManager
from ...program import Program
from ...progress import Progress
from ...registry import lookup
from ...report.quantities import bytes_text, time_text
from ...target import Target
from .budgets import PruneBudget
from .layer_table import Measure

SECONDS = 4.0
"""How long two artifacts are timed against each other."""
BURST = 0.1
"""Seconds for which one of them is called before it is the other's turn; its first calls do not count."""
FEWEST = 3


@dataclass(frozen=True)
class Measured:
    """The cost of a Program, and of the unpruned one measured beside it, in seconds or bytes."""

    cost: float
    whole: float


Meter = Callable[[Program], Measured]


def meter_of(budget: PruneBudget, whole: Program, target: Target, progress: Progress) -> Meter:
    """What measures the cost that a budget limits. Raises Unsupported for latencies of another machine."""
    if budget.kind == "latency":
        if not isinstance(target, CpuTarget) or not is_this_machine(target):
            raise Unsupported(
                f"budget of latency must be for this machine, where it is measured, not for {target}; "
                "prune on the machine itself, or give a budget of size or ram"
            )
        return LatencyMeter(whole, target, progress)
    return MemoryMeter(budget.kind, whole, target)


def cost_text(kind: str, cost: float) -> str:
    """A cost for people."""
    return time_text(cost) if kind == "latency" else bytes_text(round(cost))


class LatencyMeter:
    """Median seconds of an artifact's calls on its sample inputs, taking turns with the unpruned one's."""

    def __init__(self, whole: Program, target: Target, progress: Progress) -> None:
        self._program, self._target, self._progress = whole, target, progress

    @cached_property
    def _whole(self) -> Callable[[], Any]:
        return self._call(self._program)

    def __call__(self, program: Program) -> Measured:
        """Compile and time a Program."""
        call = self._whole if program is self._program else self._call(program)
        self._progress("measuring the artifact")
        return Measured(*reversed(interleaved(self._whole, call, SECONDS)))

    def _call(self, program: Program) -> Callable[[], Any]:
        artifact = compile_program(program, target=self._target, verify="off", self_test=False, progress=self._progress)
        inputs = artifact.sample_inputs()
        return lambda: artifact.run_flat(*inputs)


def interleaved(
    first: Callable[[], Any],
    second: Callable[[], Any],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """The median seconds of two calls that take turns in bursts, for about `seconds` in all."""
    times: tuple[list[float], list[float]] = ([], [])
    end = clock() + seconds
    while not times[1] or clock() < end:
        for call, found in zip((first, second), times, strict=True):
            call()
            stop, count = clock() + BURST, 0
            while count < FEWEST or clock() < stop:
                start = clock()
                call()
                found.append(clock() - start)
                count += 1
    return statistics.median(times[0]), statistics.median(times[1])


def bytes_of(kind: str) -> list[Measure]:
    """What gives the bytes that a budget of "size" or "ram" counts for a layer: those that stay, those of a call."""

    def stay(lowered: Sequence[Any]) -> list[float]:
        uses: list[MemoryUse] = [each.memory_use() for each in lowered]
        return [float(use.constants if kind == "size" else use.resident - use.arena) for use in uses]

    def scratch(lowered: Sequence[Any]) -> list[float]:
        return [float(each.memory_use().scratch) for each in lowered]

    return [stay, scratch] if kind == "ram" else [stay]


class MemoryMeter:
    """Bytes of an artifact's constants for "size", of all that one caller needs but inputs and outputs for "ram"."""

    def __init__(self, kind: str, whole: Program, target: Target) -> None:
        self._kind, self._target = kind, target
        self._backend = lookup("backends", target.backend)()
        self._program = whole

    @cached_property
    def _whole(self) -> float:
        return self._bytes(self._program)

    def __call__(self, program: Program) -> Measured:
        """Lower a Program and plan its memory."""
        return Measured(self._whole if program is self._program else self._bytes(program), self._whole)

    def _bytes(self, program: Program) -> float:
        ready = PassManager("default", verify="off", target=self._target).run(program)
        use: MemoryUse = self._backend.lower(ready, self._target, fallback="torch").memory_use()
        return float(use.constants if self._kind == "size" else use.resident)
