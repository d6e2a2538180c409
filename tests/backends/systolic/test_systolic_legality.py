"""Instructions that no machine can run are refused, with the field, the reason and the layer."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from fxpress.backends.systolic.architecture import Architecture, Memory, Unit
from fxpress.backends.systolic.instructions import (
    Halt,
    Instruction,
    Load,
    Multiply,
    Reduce,
    Store,
    Vector,
    units,
    with_banks,
)
from fxpress.errors import InvalidInput
from hypothesis import given
from hypothesis import strategies as st
from random_instructions import architectures, instructions

SMALL = Architecture(
    rows=4, columns=4, activation_kib=1, weight_kib=1, accumulator_kib=1, parameter_kib=1, tables=2, activation_banks=4
)  # 256 words of activations, weights and parameters, 64 of accumulators, a table is 64 words


@given(st.data(), architectures())
def test_random_instructions_are_legal_and_touch_the_banks_they_name(data, architecture: Architecture) -> None:
    instruction = data.draw(instructions(architecture))
    instruction.check(architecture)
    for access in instruction.accesses(architecture):
        if access.memory is Memory.ACTIVATIONS:
            banks = instruction.activation_writes if access.write else instruction.activation_reads
        elif access.memory is Memory.ACCUMULATORS:
            banks = instruction.accumulator_banks
        else:
            continue
        for address in access.addresses:
            assert banks >> (int(address) // architecture.bank_words(access.memory)) & 1


REQUANTIZE = Vector(requantize=True)
POOL = Vector(source=Memory.ACTIVATIONS, reduce=Reduce.MAX, output=128)


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (Load(waits=units(Unit.LOAD)), "load field waits must be units other than load, which is in order by itself"),
        (Store(signals=units(Unit.STORE)), "store field signals must be units other than store"),
        (Halt(waits=units(Unit.LOAD)), "halt field waits must be 0, not 1 (layer 0): halt waits for every unit"),
        (Load(reserved=1), "load field reserved must be 0, not 1"),
        (Load(activation_writes=16), "load field activation_writes must be a mask of 4 banks, not 16"),
        (Multiply(accumulator_banks=4), "multiply field accumulator_banks must be a mask of 2 banks, not 4"),
        (Load(memory=Memory.ACCUMULATORS), "load field memory must be activations, weights, parameters or tables, not"),
        (Load(count_y=0), "load field count_y must be at least 1, not 0"),
        (Load(count_x=3, before_x=2, after_x=2), "load field count_x must be at least before_x + after_x, not 3"),
        (Load(transpose=True, count_x=3), "load field count_x must be 4, the columns of the array, when transposing"),
        (Load(transpose=True, memory=Memory.PARAMETERS, count_x=4), "load field memory must be activations or weights"),
        (Load(memory=Memory.TABLES, count_x=65), "load field count_x must be such that words are a multiple of 64"),
        (
            Load(memory=Memory.TABLES, count_x=64, destination=2),
            "load field destination must be such that addresses 128..191 are in 0..127 of the tables memory, not 2",
        ),
        (
            Load(destination=250, count_x=7, layer=9),
            "load field destination must be such that addresses 250..256 are in 0..255 of the activations memory, "
            "not 250 (layer 9)",
        ),
        (Multiply(pixels=0), "multiply field pixels must be at least 1, not 0"),
        (Multiply(outputs=2, pixels=5, stride_output=4), "multiply field stride_output must be at least pixels=5"),
        (
            Multiply(pixels=5, width=2, stride_row=-1),
            "multiply field activation must be such that addresses -1..0 are in 0..255 of the activations memory",
        ),
        (
            Multiply(activation=250, width=7, pixels=7, stride_pixel=1),
            "multiply field activation must be such that addresses 250..256 are in 0..255 of the activations memory",
        ),
        (
            Multiply(weight=253),
            "multiply field weight must be such that addresses 253..256 are in 0..255 of the weights",
        ),
        (
            Multiply(accumulator=60, pixels=5),
            "multiply field accumulator must be such that addresses 60..64 are in 0..63 of the accumulators memory",
        ),
        (Vector(source=Memory.WEIGHTS), "vector field source must be accumulators or activations, not"),
        (Vector(), "vector field requantize must be True for accumulators, not False (layer 0): they do not fit"),
        (replace(POOL, reduce=Reduce.SUM, ky=2), "vector field requantize must be True for a sum of several words"),
        (replace(POOL, add_residual=True), "vector field requantize must be True when a residual is added"),
        (replace(POOL, low=3, high=2), "vector field low must be at most high=2, not 3"),
        (replace(POOL, use_table=True, table=2), "vector field table must be less than 2, the number of tables, not 2"),
        (
            replace(POOL, pixels=2, blocks=2, output_stride_pixel=1),
            "vector field output_stride_pixel must be at least blocks=2, so that no word is written twice, not 1",
        ),
        (
            replace(REQUANTIZE, input=64),
            "vector field input must be such that addresses 64..64 are in 0..63 of the accumulators memory, not 64",
        ),
        (replace(REQUANTIZE, output=256), "vector field output must be such that addresses 256..256 are in 0..255"),
        (
            replace(REQUANTIZE, add_residual=True, residual_input=256),
            "vector field residual_input must be such that addresses 256..256 are in 0..255 of the activations memory",
        ),
        (
            replace(REQUANTIZE, parameter=241),
            "vector field parameter must be such that addresses 241..256 are in 0..255",
        ),
        (
            replace(POOL, output=1, pixels=3, width=3, stride_pixel=1, output_stride_pixel=1),
            "vector field input must be such that word 1 is not read for one output and written as another, not 0",
        ),
        (
            replace(POOL, output=0, kx=2, stride_kx=1),
            "vector field input must be such that word 0 is not read for one output and written as another, not 0",
        ),
        (
            replace(
                REQUANTIZE, add_residual=True, residual_input=1, output=0, pixels=2, width=2, output_stride_pixel=1
            ),
            "vector field residual_input must be such that word 1 is not read for one output",
        ),
        (Store(memory=Memory.WEIGHTS), "store field memory must be activations or accumulators, not"),
        (Store(count_z=0), "store field count_z must be at least 1, not 0"),
        (
            Store(count_x=3, count_y=2, stride_y=2),
            "store field stride_x must be such that no DRAM word is written twice",
        ),
        (
            Store(memory=Memory.ACCUMULATORS, count_x=2, stride_x=3),
            "store field stride_x must be such that no DRAM word",
        ),
        (Store(source=255, count_x=2), "store field source must be such that addresses 255..256 are in 0..255 of the"),
    ],
)
def test_what_no_machine_can_run_is_refused(instruction: Instruction, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{re.escape(message)}"):
        instruction.check(SMALL)


@pytest.mark.parametrize(
    "instruction",
    [
        replace(POOL, output=0, pixels=3, width=3, stride_pixel=1, output_stride_pixel=1),
        replace(REQUANTIZE, add_residual=True, pixels=2, width=2, output_stride_pixel=1, residual_stride_pixel=1),
        Store(count_x=2, stride_x=4, count_y=4, stride_y=1),
        Load(dram=-100, count_x=3, before_x=2, after_x=1),
    ],
    ids=["in place", "residual in place", "interleaved", "padding only"],
)
def test_what_is_just_legal_is_taken(instruction: Instruction) -> None:
    instruction.check(SMALL)


def test_a_machine_has_only_its_dataflow() -> None:
    Multiply(stationary=False).check(replace(SMALL, dataflow="os"))
    Multiply(stationary=True).check(replace(SMALL, dataflow="ws"))
    with pytest.raises(InvalidInput, match=r"^multiply field stationary must be False on a machine with dataflow=os"):
        Multiply(stationary=True).check(replace(SMALL, dataflow="os"))
    with pytest.raises(InvalidInput, match=r"^multiply field stationary must be True on a machine with dataflow=ws"):
        Multiply().check(replace(SMALL, dataflow="ws"))


def test_banks_are_those_of_all_words() -> None:
    strided = with_banks(Multiply(activation=10, pixels=3, width=3, stride_pixel=64), SMALL)
    assert strided.activation_reads == 0b0111
    assert with_banks(replace(strided, stride_pixel=120, pixels=2, width=2), SMALL).activation_reads == 0b0101
    assert with_banks(Load(destination=60, count_x=8), SMALL).activation_writes == 0b0011
    assert with_banks(Store(memory=Memory.ACCUMULATORS, source=32, stride_x=4), SMALL).accumulator_banks == 0b10
