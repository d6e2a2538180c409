"""Thousands of random programs on machines of many shapes; and a 16x16 machine."""

from __future__ import annotations

import pytest
from fxpress.backends.systolic.architecture import Architecture
from hardware import SMALL, WIDE, compare
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_programs import programs

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


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("machine", MACHINES)
def test_300_programs(machine: str) -> None:
    """Of each machine, 2,100 in all; every third also with stalls."""

    @settings(max_examples=300, suppress_health_check=list(HealthCheck))
    @given(programs(MACHINES[machine], most=16), st.integers(-2000, 1000))
    def same(program, seed: int) -> None:
        compare(program)
        if seed > 0:
            compare(program, stalls=seed)

    same()


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_16x16() -> None:
    machine = Architecture(activation_kib=4, weight_kib=12, accumulator_kib=4, parameter_kib=4, tables=2)

    @settings(max_examples=30)
    @given(programs(machine))
    def same(program) -> None:
        compare(program)

    same()
