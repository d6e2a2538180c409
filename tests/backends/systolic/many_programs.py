"""Random programs by the hundred on machines of many shapes, hardware against simulator.

As a script it writes how many agreed, or fails at the first that does not:
python tests/backends/systolic/many_programs.py benchmarks/results/systolic-rtl-programs.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from fxpress.backends.systolic.architecture import Architecture
from hardware import SMALL, WIDE, compare
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_programs import programs

EXAMPLES = 300
TINY = {"activation_kib": 1, "weight_kib": 1, "accumulator_kib": 1, "parameter_kib": 1}
MACHINES = {
    "4x4": SMALL,
    "8x8": WIDE,
    "2x2, a byte a beat": Architecture(rows=2, columns=2, dram_bytes=1, dram_latency=30, tables=1, **TINY),
    "2x4, no banks, no queue": Architecture(
        rows=2,
        columns=4,
        dram_latency=1,
        vector_lanes=1,
        queue_depth=1,
        activation_banks=1,
        accumulator_banks=1,
        **TINY,
    ),
    "4x8, four beats a word": Architecture(
        rows=4, columns=8, dram_bytes=2, dram_latency=7, vector_lanes=2, tables=3, **TINY | {"weight_kib": 3}
    ),
    "2x8, weight stationary": Architecture(
        rows=2, columns=8, dataflow="ws", dram_bytes=8, dram_latency=3, **TINY | {"weight_kib": 3}
    ),
    "4x4, output stationary": Architecture(rows=4, columns=4, dataflow="os", dram_bytes=8, **TINY),
}


@dataclass
class Tally:
    """Programs that agreed bit by bit and cycle by cycle, their instructions and cycles; and those run with stalls."""

    machine: str
    programs: int = 0
    instructions: int = 0
    cycles: int = 0
    programs_with_stalls: int = 0


def check_many(architecture: Architecture, examples: int) -> Tally:
    """Raise AssertionError at the first program in which hardware and simulator differ."""
    tally = Tally(str(architecture))

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(programs(architecture, most=16), st.integers(-2000, 1000))
    def agree(program, seed: int) -> None:
        tally.cycles += compare(program)
        tally.programs += 1
        tally.instructions += len(program.instructions)
        if seed > 0:
            compare(program, stalls=seed)
            tally.programs_with_stalls += 1

    agree()
    return tally


if __name__ == "__main__":
    found = [asdict(check_many(architecture, EXAMPLES)) for architecture in MACHINES.values()]
    totals = {name: sum(tally[name] for tally in found) for name in found[0] if name != "machine"}
    text = json.dumps({**totals, "machines": found}, indent=2)
    Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")
