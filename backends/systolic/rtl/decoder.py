"""Decoders: the fields of an instruction as wires, from the same declarations as the assembler."""

from __future__ import annotations

from ..instructions.base import Instruction
from .verilog import Module, Signal


def instruction_bits(kind: type[Instruction]) -> int:
    """How many of the 512 bits an instruction of this kind uses."""
    return max(field.low + field.bits for field in kind.layout())


def decoder(kind: type[Instruction]) -> Module:
    """A module that takes an instruction apart; its outputs are called as the fields are."""
    bits = instruction_bits(kind)
    module = Module(
        f"systolic_decode_{kind.mnemonic}", f"The fields of the instruction {kind.mnemonic}.", sequential=False
    )
    instruction = module.input("instruction", bits)
    for field in kind.layout():
        part = instruction.part(field.low, field.bits)
        module.output(f"field_{field.name}", field.bits, part, signed=field.signed)
    return module


def unit(name: str, purpose: str, kind: type[Instruction]) -> Module:
    """A unit for instructions of this kind, as all begin: what arrives with `start` is kept as `current`.

    Its fields are wires, `next_<field>` as it arrives and `now_<field>` as it is kept.
    """
    bits = instruction_bits(kind)
    module = Module(f"systolic_{name}_unit", purpose)
    module.input("reset")
    module.input("start")
    instruction = module.input("instruction", bits)
    module.output("ready")
    module.output("done")
    current = module.register("current", bits)
    module.register("running")
    decode(module, kind, instruction, "next")
    decode(module, kind, current, "now")
    module.clocked(f"if (start) {current} <= {instruction};")
    return module


def decode(module: Module, kind: type[Instruction], instruction: Signal, prefix: str) -> dict[str, Signal]:
    """Place a decoder of `instruction` in `module`; field name -> wire `<prefix>_<name>`."""
    wires = {
        field.name: module.wire(f"{prefix}_{field.name}", field.bits, signed=field.signed) for field in kind.layout()
    }
    connections: dict[str, Signal | None] = {f"field_{name}": wire for name, wire in wires.items()}
    module.instance(decoder(kind), f"{prefix}_decoder", instruction=instruction, **connections)
    return wires
