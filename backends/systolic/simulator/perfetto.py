"""A run as a Chrome trace, for ui.perfetto.dev: a track a unit, and counters of DRAM traffic. 1 us is a cycle."""

from __future__ import annotations

import json
import os
from typing import Any

from ..architecture import Memory, Unit
from ..encoding import disassemble
from .timeline import Timeline

COUNTER_STEPS = 512  # points of the traffic counters


def trace_events(timeline: Timeline) -> list[dict[str, Any]]:
    """The events of a run, times in cycles. An instruction lasts from its start until its unit can take the next."""
    program = timeline.program
    events: list[dict[str, Any]] = [_named("process_name", 0, f"systolic {program.architecture}")]
    for unit in Unit:
        events.append(_named("thread_name", unit, unit.name.lower()))
    for index, instruction in enumerate(program.instructions):
        if instruction.unit is None:
            continue
        start = int(timeline.start[index])
        layer = program.layers[instruction.layer].name if instruction.layer < len(program.layers) else ""
        events.append(
            {
                "name": layer or instruction.mnemonic,
                "cat": instruction.mnemonic,
                "ph": "X",
                "pid": 0,
                "tid": int(instruction.unit),
                "ts": start,
                "dur": instruction.issue_cycles(program.architecture),
                "args": {
                    "index": index,
                    "text": disassemble(instruction),
                    "dispatched": int(timeline.dispatch[index]),
                    "done": int(timeline.done[index]),
                },
            }
        )
    return [*events, *_counters(timeline)]


def _named(kind: str, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": 0, "tid": int(thread), "args": {"name": name}}


def _counters(timeline: Timeline) -> list[dict[str, Any]]:
    """Bytes a cycle from and to DRAM, the mean over steps of equal length."""
    program = timeline.program
    step = -(-timeline.total // COUNTER_STEPS)
    totals = {"read": [0.0] * COUNTER_STEPS, "write": [0.0] * COUNTER_STEPS}
    for index, instruction in enumerate(program.instructions):
        for (memory, direction), size in instruction.traffic(program.architecture).items():
            if memory is not Memory.DRAM or not size:
                continue
            begin = int(timeline.start[index])
            cycles = instruction.issue_cycles(program.architecture)
            for point in range(begin // step, (begin + cycles - 1) // step + 1):
                overlap = min(begin + cycles, (point + 1) * step) - max(begin, point * step)
                totals[direction][point] += size * overlap / cycles
    return [
        {
            "name": "DRAM bytes a cycle",
            "ph": "C",
            "pid": 0,
            "ts": point * step,
            "args": {direction: round(sizes[point] / step, 3) for direction, sizes in totals.items()},
        }
        for point in range(-(-timeline.total // step))
    ]


def write_trace(timeline: Timeline, path: str | os.PathLike[str]) -> None:
    """Write the run's trace as JSON, whole or not at all. Raises InvalidInput when the folder cannot be written to."""
    from ....runtime.container import replaced_file  # here, because that package loads TVM's runtime

    trace = {"traceEvents": trace_events(timeline), "otherData": {"unit": "1 us is a cycle"}}
    with replaced_file(path) as file:
        file.write(json.dumps(trace).encode())
