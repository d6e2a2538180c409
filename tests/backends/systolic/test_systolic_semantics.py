"""Every instruction, encoded and executed, does what plain Python loops do."""

from __future__ import annotations

import numpy as np
import pytest
from fxpress.backends.systolic.architecture import Architecture, Memory
from fxpress.backends.systolic.encoding import decode, encode
from fxpress.backends.systolic.instructions import Instruction, Multiply
from fxpress.backends.systolic.instructions.multiply import exact_product
from fxpress.backends.systolic.simulator.functional import execute
from fxpress.backends.systolic.simulator.memories import Machine
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_machine import State, random_state, step
from random_instructions import DRAM_WORDS, architectures, loads, multiplications, stores, vectors
from random_programs import programs

ON_CHIP = [memory for memory in Memory if memory is not Memory.DRAM]


def machine_of(state: State, architecture: Architecture) -> Machine:
    machine = Machine(architecture, np.zeros(len(state[Memory.DRAM]) * architecture.columns, np.uint8))
    for memory, words in state.items():
        machine.memories[memory][...] = words
    return machine


def check(instruction: Instruction, architecture: Architecture, seed: int) -> None:
    state = random_state(architecture, DRAM_WORDS, seed)
    machine = machine_of(state, architecture)
    instruction.check(architecture)
    decode(encode(instruction)).execute(machine)
    step(state, instruction, architecture)
    for memory, words in state.items():
        np.testing.assert_array_equal(machine.memories[memory], words, err_msg=memory.name)


@pytest.mark.parametrize("kind", [loads, multiplications, vectors, stores], ids=["load", "multiply", "vector", "store"])
def test_an_instruction_does_what_plain_loops_do(kind) -> None:
    @settings(max_examples=40)
    @given(st.data(), architectures(), st.integers(0, 1000))
    def same(data: st.DataObject, architecture: Architecture, seed: int) -> None:
        check(data.draw(kind(architecture)), architecture, seed)

    same()


@settings(max_examples=8)
@given(st.data(), architectures())
def test_a_program_does_what_its_instructions_do_one_by_one(data: st.DataObject, architecture: Architecture) -> None:
    program = data.draw(programs(architecture, most=6))
    state: State = {memory: [[0] * architecture.columns] * architecture.words(memory) for memory in ON_CHIP}
    state[Memory.DRAM] = program.dram().view(np.int8).reshape(-1, architecture.columns).tolist()
    state[Memory.ACCUMULATORS] = [[0] * architecture.columns for _ in state[Memory.ACCUMULATORS]]
    machine = execute(program, program.dram())
    for instruction in program.instructions:
        step(state, instruction, architecture)
    for memory, words in state.items():
        np.testing.assert_array_equal(machine.memories[memory], words, err_msg=memory.name)


def test_a_long_product_is_exact_where_float32_is_not() -> None:
    left = np.full((1, 5000), -128, np.float32)
    right = np.full((5000, 1), -128, np.float32)
    left[0, 0] = right[0, 0] = 1
    assert exact_product(left, right)[0, 0] == 4999 * 16384 + 1


def test_sums_wrap_modulo_2_to_32() -> None:
    architecture = Architecture(rows=2, columns=2, activation_kib=1, weight_kib=1, accumulator_kib=1)
    machine = Machine(architecture, np.zeros(0, np.uint8))
    machine.memories[Memory.ACCUMULATORS][0] = 2**31 - 1
    machine.memories[Memory.ACTIVATIONS][0] = machine.memories[Memory.WEIGHTS][:2] = 1
    Multiply(accumulate=True).execute(machine)
    assert machine.memories[Memory.ACCUMULATORS][0].tolist() == [-(2**31) + 1] * 2
