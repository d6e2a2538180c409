"""Thousands of random programs on machines of many shapes; and a 16x16 machine."""

from __future__ import annotations

import pytest
from fxpress.backends.systolic.architecture import Architecture
from many_programs import EXAMPLES, MACHINES, check_many


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("machine", MACHINES)
def test_many_programs(machine: str) -> None:
    assert check_many(MACHINES[machine], EXAMPLES).programs >= EXAMPLES


def test_machines_get_2000_programs() -> None:
    assert len(MACHINES) * EXAMPLES >= 2000


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_16x16() -> None:
    machine = Architecture(activation_kib=4, weight_kib=12, accumulator_kib=4, parameter_kib=4, tables=2)
    assert check_many(machine, 30).programs >= 30
