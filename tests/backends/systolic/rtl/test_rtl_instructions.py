"""Programs made to hurt one thing in the hardware, and what it does with programs that are wrong."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from fxpress.backends.systolic.architecture import Memory, Unit
from fxpress.backends.systolic.encoding import encode
from fxpress.backends.systolic.instructions import Halt, Instruction, Load, Multiply, Store, Vector
from fxpress.backends.systolic.program import SystolicProgram
from fxpress.backends.systolic.rtl.build import run_program
from fxpress.errors import InvalidInput
from hardware import SMALL, compare
from random_programs import begin, finish, locked


def program_of(instructions: Sequence[Instruction]) -> SystolicProgram:
    ordering = begin(SMALL)
    for instruction in instructions:
        ordering.append(locked(SMALL, instruction))
    return finish(ordering, random.Random(5))


def test_halt_alone_takes_a_cycle() -> None:
    program = SystolicProgram.of([Halt()], architecture=SMALL, dram_words=1)
    assert run_program(program, program.dram()).total == 1
    compare(program)


def test_sums_are_added_to_what_was_written_a_cycle_before() -> None:
    """K = C = R: a tile's first result comes a cycle after the last of the tile before, to the same word here."""
    compare(
        program_of(
            [
                Multiply(activation=i, weight=4 * i, pixels=4, width=4, stride_pixel=1, accumulator=40 - 3 * i,
                         accumulate=True)
                for i in range(8)
            ]
        )
    )  # fmt: skip


@pytest.mark.parametrize("stationary", [False, True])
def test_pixels_around_the_number_of_rows(stationary: bool) -> None:
    compare(
        program_of(
            [
                Multiply(pixels=pixels, width=3, stride_pixel=2, stride_row=7, kx=2, stride_kx=1, outputs=2,
                         stride_output=32, accumulator=pixels, stationary=stationary, accumulate=pixels % 2 == 0)
                for pixels in range(1, 11)
            ]
        )
    )  # fmt: skip


def test_dataflows_take_turns() -> None:
    compare(program_of([Multiply(pixels=3, accumulator=i, stationary=i % 3 == 0) for i in range(12)]))


def test_more_loads_than_may_be_in_flight() -> None:
    words = [Load(dram=i, destination=i) for i in range(20)]
    padding = [Load(destination=20 + i, count_x=3, after_x=3, padding=i) for i in range(10)]
    turned = [Load(transpose=True, dram=i, count_x=4, destination=60 + 4 * i, before_x=i, padding=9) for i in range(3)]
    compare(program_of([*words, *padding, *turned, *words, *turned]))


def test_stores_of_single_words_overtake_nothing() -> None:
    compare(program_of([Store(source=200 + i, dram=i) for i in range(20)]))


def test_tables_are_replaced() -> None:
    loads = [Load(memory=Memory.TABLES, dram=i, destination=i % 4, count_x=64) for i in range(5)]
    looks = [
        Vector(source=Memory.ACTIVATIONS, pixels=9, stride_pixel=1, output=100 + 10 * i, output_stride_pixel=1,
               use_table=True, table=i, parameter=0)
        for i in range(4)
    ]  # fmt: skip
    compare(program_of([*loads, *looks]))


def test_many_tokens_wait() -> None:
    loads = [Load(destination=i, signals=1 << Unit.STORE) for i in range(9)]
    stores = [Store(source=i, dram=10 + i, waits=1 << Unit.LOAD) for i in range(9)]
    compare(
        SystolicProgram.of(
            [*(locked(SMALL, item) for item in (*loads, *stores)), Halt()], architecture=SMALL, dram_words=20
        )
    )


def test_an_unknown_instruction_is_refused() -> None:
    code = encode(Halt()).replace(encode(Halt())[:1], b"\x77", 1)
    program = SystolicProgram(architecture=SMALL, code=code, dram_words=1)
    with pytest.raises(
        InvalidInput, match=r"^the hardware cannot run the program: instruction 0 has an unknown opcode"
    ):
        run_program(program, np.zeros(program.dram_bytes, np.uint8))


def test_a_program_that_waits_for_ever_is_stopped() -> None:
    program = SystolicProgram.of([Load(waits=1 << Unit.STORE), Halt()], architecture=SMALL, dram_words=1)
    with pytest.raises(InvalidInput, match=r"not halted after 500 cycles$"):
        run_program(program, program.dram(), limit=500)
