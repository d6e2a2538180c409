"""What a program computes: every instruction's semantics, in program order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ....errors import InvalidInput
from ..layout import Bytes
from ..program import SystolicProgram
from .memories import Machine


def execute(program: SystolicProgram, dram: Bytes) -> Machine:
    """Run the encoded program on `dram`, which changes in place. Returns the machine with its memories.

    Raises InvalidArtifact when the code does not decode, InvalidInput naming the instruction, its layer, the memory and
    the addresses when an instruction is illegal or reaches outside.
    """
    program.check()
    if dram.size != program.dram_bytes:
        raise InvalidInput(f"DRAM must have {program.dram_bytes} bytes, not {dram.size}")
    machine = Machine(program.architecture, dram)
    for index, instruction in enumerate(program.instructions):
        try:
            instruction.execute(machine)
        except InvalidInput as error:
            raise InvalidInput(f"{program.where(index)}: {error}") from error
    return machine


def run(program: SystolicProgram, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The integer outputs of a program for integer inputs, by name."""
    dram = program.dram()
    program.load_inputs(dram, inputs)
    execute(program, dram)
    return program.read_outputs(dram)
