"""Random programs: the hardware does what the simulator does, cycle by cycle."""

from __future__ import annotations

import pytest
from hardware import SMALL, WIDE, compare
from hypothesis import given, settings
from hypothesis import strategies as st
from random_instructions import loads, multiplications, stores, vectors
from random_programs import programs

MACHINES = {"4x4": SMALL, "8x8": WIDE}
UNITS = {"load": (loads,), "array": (multiplications,), "vector": (vectors,), "store": (stores,)}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("unit", UNITS)
def test_each_unit_alone(unit: str, machine: str) -> None:
    @settings(max_examples=20)
    @given(programs(MACHINES[machine], UNITS[unit], most=4))
    def same(program) -> None:
        compare(program)

    same()


@pytest.mark.parametrize("machine", MACHINES)
def test_programs(machine: str) -> None:
    @settings(max_examples=40)
    @given(programs(MACHINES[machine]))
    def same(program) -> None:
        compare(program)

    same()


@pytest.mark.parametrize("machine", MACHINES)
def test_values_do_not_depend_on_memory_stalls(machine: str) -> None:
    @settings(max_examples=20)
    @given(programs(MACHINES[machine]), st.integers(1, 1000))
    def same(program, seed: int) -> None:
        compare(program, stalls=seed)

    same()
