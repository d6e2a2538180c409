"""The dispatcher: takes instructions in program order, queues them by unit, starts them when tokens and banks allow.

All units decide in the same cycle, in the order store, vector, array, load; one that starts locks its banks for those
after it.
"""

from __future__ import annotations

from ..architecture import Architecture, Unit
from ..instructions.base import INSTRUCTION_BYTES, OPCODE_BITS, Instruction
from ..instructions.halt import Halt
from ..instructions.load import Load
from ..instructions.multiply import Multiply
from ..instructions.store import Store
from ..instructions.vector import Vector
from ..timing import IN_FLIGHT, TOKEN_LIMIT
from .decoder import instruction_bits
from .storage import queue
from .verilog import Module, bits_for, constant

INSTRUCTION_BITS = 8 * INSTRUCTION_BYTES
UNITS: dict[Unit, type[Instruction]] = {Unit.LOAD: Load, Unit.ARRAY: Multiply, Unit.VECTOR: Vector, Unit.STORE: Store}
ORDER = (Unit.STORE, Unit.VECTOR, Unit.ARRAY, Unit.LOAD)
BANKS = ("activation_reads", "activation_writes", "accumulator_banks")
MASK_BITS = 8


def dispatcher(architecture: Architecture) -> Module:
    """Ports of a unit u: `u_instruction`, `u_start`, and `u_ready`, `u_done` back. `halted` once HALT is done."""
    module = Module("systolic_dispatcher", "Queues instructions by unit; tokens and bank locks decide when they start.")
    module.input("reset")
    for unit, kind in UNITS.items():
        name = unit.name.lower()
        module.input(f"{name}_ready")
        module.input(f"{name}_done")
        module.output(f"{name}_start")
        module.output(f"{name}_instruction", instruction_bits(kind))
    _fetch(module)
    for unit in UNITS:
        _unit(module, architecture, unit)
    _tokens(module)
    _starts(module, architecture)
    module.comment("HALT is done when nothing is queued or in flight")
    idle = " && ".join(f"{unit.name.lower()}_empty && {unit.name.lower()}_flying_none" for unit in UNITS)
    module.output("halted", 1, f"halting && {idle}")
    return module


def _fetch(module: Module) -> None:
    """The instruction stream: the one of number `fetch_index` is taken when it is valid and its queue has room."""
    module.input("fetch_valid")
    module.input("fetch_instruction", INSTRUCTION_BITS)
    index = module.output_register("fetch_index", 32)
    opcode = module.wire("opcode", OPCODE_BITS, module["fetch_instruction"].part(0, OPCODE_BITS))
    rooms = []
    for unit, kind in UNITS.items():
        name = unit.name.lower()
        module.wire(f"is_{name}", 1, f"{opcode} == {constant(kind.opcode, OPCODE_BITS)}")
        module.wire(f"{name}_full")
        rooms.append(f"is_{name} && !{name}_full")
    module.wire("is_halt", 1, f"{opcode} == {constant(Halt.opcode, OPCODE_BITS)}")
    module.register("halting")
    illegal = module.output_register("illegal")
    module.output("fetch_ready", 1, f"!reset && !halting && !illegal && (is_halt || {' || '.join(rooms)})")
    module.wire("taken", 1, "fetch_valid && fetch_ready")
    known = " || ".join(["is_halt", *(f"is_{unit.name.lower()}" for unit in UNITS)])
    module.clocked(f"""
        if (reset) {index} <= 32'd0;
        else if (taken) {index} <= {index} + 32'd1;
        halting <= !reset && (halting || taken && is_halt);
        {illegal} <= !reset && ({illegal} || fetch_valid && !halting && !({known}));
    """)


def _unit(module: Module, architecture: Architecture, unit: Unit) -> None:
    """A unit's queue, its head taken apart, and its instructions in flight."""
    name, kind = unit.name.lower(), UNITS[unit]
    bits = instruction_bits(kind)
    module.comment(f"{name}: queue and instructions in flight")
    head = module[f"{name}_instruction"]
    module.wire(f"{name}_empty")
    module.instance(
        queue(bits, architecture.queue_depth),
        f"{name}_queue",
        reset=module["reset"],
        push=module.wire(f"{name}_push", 1, f"taken && is_{name}"),
        value=module["fetch_instruction"].part(0, bits),
        pop=module[f"{name}_start"],
        head=head,
        empty=module[f"{name}_empty"],
        full=module[f"{name}_full"],
    )
    fields = {field.name: field for field in kind.layout()}
    for field in (fields["waits"], fields["signals"], *(fields[banks] for banks in BANKS)):
        module.wire(f"{name}_{field.name}", field.bits, head.part(field.low, field.bits))
    flying = {f"flying_{banks}": module.wire(f"{name}_flying_{banks}", MASK_BITS) for banks in BANKS}
    module.instance(
        tracker(),
        f"{name}_tracker",
        reset=module["reset"],
        start=module[f"{name}_start"],
        done=module[f"{name}_done"],
        signals=module[f"{name}_signals"],
        **{banks: module[f"{name}_{banks}"] for banks in BANKS},
        done_signals=module.wire(f"{name}_done_signals", len(UNITS)),
        none=module.wire(f"{name}_flying_none"),
        full=module.wire(f"{name}_flying_full"),
        **flying,
    )


def tracker() -> Module:
    """What the dispatcher remembers of a unit's instructions in flight; they are done in the order of their starts."""
    module = Module("systolic_tracker", f"Up to {IN_FLIGHT} instructions in flight: tokens to give, banks locked.")
    pointer_bits = bits_for(IN_FLIGHT)
    module.input("reset")
    module.input("start")
    module.input("done")
    module.input("signals", len(UNITS))
    for banks in BANKS:
        module.input(banks, MASK_BITS)
    module.register("flying", IN_FLIGHT)
    module.register("oldest", pointer_bits)
    module.register("free", pointer_bits)
    module.output("none", 1, f"flying == {constant(0, IN_FLIGHT)}")
    module.output("full", 1, "&flying")
    for name, width in (("signals", len(UNITS)), *((banks, MASK_BITS) for banks in BANKS)):
        module.memory(f"kept_{name}", width, IN_FLIGHT)
        module.clocked(f"if (start) kept_{name}[free] <= {name};")
    module.output("done_signals", len(UNITS), "kept_signals[oldest]")
    for banks in BANKS:
        locked = (f"(kept_{banks}[{i}] & {{{MASK_BITS}{{flying[{i}]}}}})" for i in range(IN_FLIGHT))
        module.output(f"flying_{banks}", MASK_BITS, " |\n    ".join(locked))
    one = constant(1, pointer_bits)
    module.clocked(f"""
        if (reset) begin
          flying <= {constant(0, IN_FLIGHT)};
          oldest <= {constant(0, pointer_bits)};
          free <= {constant(0, pointer_bits)};
        end else begin
          if (start) flying[free] <= 1'b1;
          if (start) free <= free + {one};
          if (done) flying[oldest] <= 1'b0;
          if (done) oldest <= oldest + {one};
        end
    """)
    return module


def _tokens(module: Module) -> None:
    """A counter for each ordered pair of units."""
    bits = bits_for(TOKEN_LIMIT + 1)
    module.comment("tokens from one unit to another: given when an instruction is done, taken when one starts")
    for giver in UNITS:
        for taker in UNITS:
            if giver is taker:
                continue
            name = f"tokens_{giver.name.lower()}_{taker.name.lower()}"
            module.register(name, bits)
            module.wire(f"gives_{name}", 1, f"{giver.name.lower()}_done && {giver.name.lower()}_done_signals[{taker}]")
            module.wire(f"takes_{name}", 1, f"{taker.name.lower()}_start && {taker.name.lower()}_waits[{giver}]")
            module.clocked(f"""
                if (reset) {name} <= {constant(0, bits)};
                else if (gives_{name} && !takes_{name}) {name} <= {name} + {constant(1, bits)};
                else if (takes_{name} && !gives_{name}) {name} <= {name} - {constant(1, bits)};
            """)


def _starts(module: Module, architecture: Architecture) -> None:
    """Whether the head of each queue starts in this cycle."""
    for position, unit in enumerate(ORDER):
        name = unit.name.lower()
        module.comment(f"{name} starts when it can, has its tokens and meets no other unit in a bank")
        conditions = [f"!{name}_empty", f"{name}_ready", f"!{name}_flying_full"]
        for giver in UNITS:
            if giver is not unit:
                tokens = f"tokens_{giver.name.lower()}_{name}"
                conditions.append(f"(!{name}_waits[{giver}] || {tokens} != {constant(0, bits_for(TOKEN_LIMIT + 1))})")
        for banks in BANKS:
            locked = [f"{other.name.lower()}_flying_{banks}" for other in UNITS if other is not unit]
            for earlier in (other.name.lower() for other in ORDER[:position]):
                locked.append(f"({{{MASK_BITS}{{{earlier}_start}}}} & {earlier}_{banks})")
            module.wire(f"{name}_locked_{banks}", MASK_BITS, " | ".join(locked))
            conditions.append(f"({name}_{banks} & {name}_locked_{banks}) == {constant(0, MASK_BITS)}")
        if unit is Unit.ARRAY and architecture.dataflow == "both":
            stationary = next(field for field in Multiply.layout() if field.name == "stationary")
            module.register("array_mode")
            mode = module["array_instruction"].part(stationary.low, 1)
            module.clocked(f"if (array_start) array_mode <= {mode};")
            conditions.append(f"(array_flying_none || array_mode == {mode})")
        module.assign(module[f"{name}_start"], " &&\n  ".join(conditions))
