"""Runs of the hardware against the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from fxpress.backends.systolic.architecture import Architecture
from fxpress.backends.systolic.program import SystolicProgram
from fxpress.backends.systolic.rtl.build import run_program
from fxpress.backends.systolic.simulator.cycles import simulate_cycles
from fxpress.backends.systolic.simulator.functional import execute
from fxpress.backends.systolic.simulator.races import check_order
from numpy.typing import NDArray

# what the fast tests compile: a word is a beat on the small one; on the other, two beats, and lanes take turns
SMALL = Architecture(
    rows=4, columns=4, activation_kib=1, weight_kib=1, accumulator_kib=1, parameter_kib=1, dram_bytes=4, dram_latency=20
)
WIDE = Architecture(
    rows=8,
    columns=8,
    activation_kib=2,
    weight_kib=3,
    accumulator_kib=2,
    parameter_kib=2,
    dram_bytes=4,
    dram_latency=9,
    vector_lanes=4,
    activation_banks=4,
    accumulator_banks=4,
    queue_depth=3,
)


def compare(program: SystolicProgram, inputs: Mapping[str, NDArray[Any]] | None = None, *, stalls: int = 0) -> int:
    """The hardware leaves what the simulator leaves in DRAM and, unless memory stalls, takes the same cycles.

    Returns how many cycles it took.
    """
    check_order(program, written_first=False)
    dram = program.dram()
    if inputs is not None:
        program.load_inputs(dram, inputs)
    expected = dram.copy()
    execute(program, expected)
    run = run_program(program, dram, stalls=stalls, limit=20_000_000)
    np.testing.assert_array_equal(run.dram, expected)
    if not stalls:
        timeline = simulate_cycles(program)
        np.testing.assert_array_equal(run.start, timeline.start)
        np.testing.assert_array_equal(run.done, timeline.done)
    return run.total
