"""When everything happens: the cycle model of the machine, from event to event. No data is looked at.

The rules, in the order of a cycle t: what was done at t-1 gives its tokens and its banks back; the dispatcher puts one
instruction into its unit's queue if starts before t left room; then store, vector, array and load decide, in this
order, whether the heads of their queues start. A head starts when it was dispatched before t, its unit is ready, its
tokens are there, fewer than IN_FLIGHT of its unit's instructions are under way, none of them of another mode, and no
other unit's instruction under way has one of its banks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from ....errors import InvalidInput
from ..architecture import Unit
from ..instructions import Halt
from ..program import SystolicProgram
from ..timing import IN_FLIGHT, TOKEN_LIMIT
from .timeline import Stall, Timeline

DECISION_ORDER = (Unit.STORE, Unit.VECTOR, Unit.ARRAY, Unit.LOAD)
NEVER = 1 << 62


@dataclass(slots=True)
class _Job:
    """What the engine knows of an instruction."""

    index: int
    waits: tuple[Unit, ...]
    signals: tuple[Unit, ...]
    banks: tuple[int, int, int]
    issue: int
    duration: int
    mode: int
    dispatched: int = -1
    done: int = NEVER


@dataclass(slots=True)
class _UnitState:
    """A unit: its queue, what is under way, and since when it could take the next instruction."""

    unit: Unit
    queue: deque[_Job] = field(default_factory=deque)
    flight: deque[_Job] = field(default_factory=deque)
    banks: tuple[int, int, int] = (0, 0, 0)  # of all that is under way
    ready: int = 0
    drained: int = 0  # since when fewer than IN_FLIGHT have been under way, or none of another mode
    mode: int = 0

    def lock(self) -> None:
        reads = writes = sums = 0
        for job in self.flight:
            reads, writes, sums = reads | job.banks[0], writes | job.banks[1], sums | job.banks[2]
        self.banks = reads, writes, sums


class _Engine:
    def __init__(self, program: SystolicProgram) -> None:
        self.program = program
        self.architecture = program.architecture
        count = len(program.instructions)
        self.dispatch = np.zeros(count, np.int64)
        self.start = np.zeros(count, np.int64)
        self.done = np.zeros(count, np.int64)
        self.units = {unit: _UnitState(unit) for unit in Unit}
        # for each pair of units, since when each token not yet taken has been there
        self.tokens: dict[tuple[Unit, Unit], deque[int]] = {(a, b): deque() for a in Unit for b in Unit if a != b}
        self.stalls = {unit: dict.fromkeys(Stall, 0) for unit in Unit}
        self.full = dict.fromkeys(Unit, 0)

    def run(self) -> Timeline:
        pending = self.program.instructions
        next_index, last_dispatch, time, count = 0, -1, 0, len(pending) - 1
        job = self._job(0) if count else None
        while True:
            self._give_back(time)
            if job is not None:
                unit = self.units[self._unit(job.index)]
                if len(unit.queue) < self.architecture.queue_depth:
                    self.full[unit.unit] += time - last_dispatch - 1
                    job.dispatched = self.dispatch[job.index] = last_dispatch = time
                    unit.queue.append(job)
                    next_index += 1
                    job = self._job(next_index) if next_index < count else None
            for name in DECISION_ORDER:
                self._decide(self.units[name], time)
            soon = self._next_event(time)
            if job is not None and len(self.units[self._unit(job.index)].queue) < self.architecture.queue_depth:
                soon = time + 1
            if soon == NEVER:
                if job is None and not any(unit.queue or unit.flight for unit in self.units.values()):
                    break
                raise InvalidInput(self._deadlock())
            time = soon
        self._halt(count, last_dispatch)
        return Timeline(self.program, self.dispatch, self.start, self.done, self.stalls, self.full)

    def _unit(self, index: int) -> Unit:
        unit = self.program.instructions[index].unit
        assert unit is not None
        return unit

    def _job(self, index: int) -> _Job:
        instruction = self.program.instructions[index]
        return _Job(
            index,
            tuple(unit for unit in Unit if instruction.waits >> unit & 1),
            tuple(unit for unit in Unit if instruction.signals >> unit & 1),
            (instruction.activation_reads, instruction.activation_writes, instruction.accumulator_banks),
            instruction.issue_cycles(self.architecture),
            instruction.done_cycles(self.architecture),
            instruction.mode(),
        )

    def _give_back(self, time: int) -> None:
        for unit in self.units.values():
            flight = unit.flight
            if not flight or flight[0].done >= time:
                continue
            while flight and flight[0].done < time:
                job = flight.popleft()
                unit.drained = job.done + 1
                for other in job.signals:
                    tokens = self.tokens[unit.unit, other]
                    tokens.append(job.done + 1)
                    if len(tokens) > TOKEN_LIMIT:
                        raise InvalidInput(
                            f"{self.program.where(job.index)}: at most {TOKEN_LIMIT} tokens may wait from "
                            f"{unit.unit.name.lower()} to {other.name.lower()}, but this gives one more"
                        )
            unit.lock()

    def _decide(self, unit: _UnitState, time: int) -> None:
        if not unit.queue or unit.ready > time:
            return
        job = unit.queue[0]
        if job.dispatched >= time or len(unit.flight) >= IN_FLIGHT or (unit.flight and job.mode != unit.mode):
            return
        for giver in job.waits:
            if not self.tokens[giver, unit.unit]:
                return
        reads, writes, sums = job.banks
        if reads or writes or sums:
            for other in self.units.values():
                theirs = other.banks
                if other is not unit and (reads & theirs[0] or writes & theirs[1] or sums & theirs[2]):
                    return
        self._begin(unit, job, time)

    def _begin(self, unit: _UnitState, job: _Job, time: int) -> None:
        stalls = self.stalls[unit.unit]
        now = max(unit.ready, job.dispatched + 1)
        stalls[Stall.DISPATCH] += now - unit.ready
        for giver in job.waits:
            given = self.tokens[giver, unit.unit].popleft()
            stalls[Stall.TOKENS] += max(0, given - now)
            now = max(now, given)
        if unit.mode != job.mode or len(unit.flight) == IN_FLIGHT - 1:
            stalls[Stall.PIPELINE] += max(0, unit.drained - now)
            now = max(now, unit.drained)
        stalls[Stall.BANKS] += time - now
        unit.queue.popleft()
        job.done = self.done[job.index] = time + job.duration
        self.start[job.index] = time
        unit.flight.append(job)
        unit.ready, unit.mode = time + job.issue, job.mode
        unit.lock()

    def _next_event(self, time: int) -> int:
        soon = NEVER
        for unit in self.units.values():
            if unit.flight:
                soon = min(soon, unit.flight[0].done + 1)
            if unit.queue:
                able = max(unit.ready, unit.queue[0].dispatched + 1)
                if able > time:
                    soon = min(soon, able)
        return soon

    def _halt(self, index: int, last_dispatch: int) -> None:
        assert isinstance(self.program.instructions[index], Halt)
        self.dispatch[index] = last_dispatch + 1
        self.start[index] = max(last_dispatch + 1, int(self.done[:index].max(initial=0)))
        self.done[index] = self.start[index] + 1

    def _deadlock(self) -> str:
        lines = ["a program must not stop before halt, but no unit can start its next instruction:"]
        for unit in self.units.values():
            if not unit.queue:
                continue
            job = unit.queue[0]
            missing = [giver.name.lower() for giver in job.waits if not self.tokens[giver, unit.unit]]
            lines.append(f"  {self.program.where(job.index)} waits for a token from {' and '.join(missing)}")
        return "\n".join([*lines, "signal those tokens from instructions that stand before the ones that wait"])


def simulate_cycles(program: SystolicProgram) -> Timeline:
    """When each instruction of a program is dispatched, starts and is done, with an ideal DRAM.

    Raises InvalidInput for an illegal instruction, a counter of tokens that overflows, and a deadlock.
    """
    program.check()
    return _Engine(program).run()
