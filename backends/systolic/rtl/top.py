"""The machine: dispatcher, units, memories, an AXI4 port to DRAM and a stream of instructions."""

from __future__ import annotations

from ..architecture import Architecture, Memory, Unit
from .array import array_unit
from .cell import BYTE, SUM_BITS
from .decoder import instruction_bits
from .dispatcher import INSTRUCTION_BITS, UNITS, dispatcher
from .load import ADDRESS_BITS, load_unit
from .storage import banked_memory, memory
from .store import store_unit
from .vector import vector_unit
from .verilog import Module, Signal, bits_for, constant

TOP = "systolic"
BUILDERS = {Unit.LOAD: load_unit, Unit.ARRAY: array_unit, Unit.VECTOR: vector_unit, Unit.STORE: store_unit}
# which units read and write each memory that more than the load unit writes
SHARED = {
    Memory.ACTIVATIONS: (("array", "vector", "store"), ("load", "vector")),
    Memory.ACCUMULATORS: (("array", "vector", "store"), ("array",)),
}
OWN = {Memory.WEIGHTS: "array", Memory.PARAMETERS: "vector"}  # written by load, read by one unit
SINGULAR = {
    Memory.ACTIVATIONS: "activation",
    Memory.WEIGHTS: "weight",
    Memory.PARAMETERS: "parameter",
    Memory.ACCUMULATORS: "accumulator",
    Memory.TABLES: "table",
}


def top(architecture: Architecture) -> Module:
    """The top module, `systolic`. `reset` for a cycle; then it runs the stream up to HALT and is `halted`."""
    module = Module(TOP, f"A systolic machine: {architecture}.")
    module.input("reset")
    module.output("halted")
    module.output("illegal")
    module.comment("instructions: the one of number fetch_index is on the port when fetch_valid")
    connections: dict[Unit, dict[str, Signal | None]] = {}
    _ports(module, architecture)
    for unit, kind in UNITS.items():
        name = unit.name.lower()
        module.wire(f"{name}_instruction", instruction_bits(kind))
        for signal in ("start", "ready", "done"):
            module.wire(f"{name}_{signal}")
        connections[unit] = {
            "reset": module["reset"],
            **{signal: module[f"{name}_{signal}"] for signal in ("start", "ready", "done")},
            "instruction": module[f"{name}_instruction"],
        }
    _memories(module, architecture, connections)
    _bus(module, connections)
    for unit, build in BUILDERS.items():
        module.instance(build(architecture), f"{unit.name.lower()}_unit", **connections[unit])
    control = dispatcher(architecture)
    names = [f"{unit.name.lower()}_{signal}" for unit in UNITS for signal in ("ready", "done", "start")]
    module.instance(
        control,
        "dispatcher",
        reset=module["reset"],
        **{name: module[name] for name in names},
        **{f"{u.name.lower()}_instruction": connections[u]["instruction"] for u in UNITS},
        fetch_valid=module["fetch_valid"],
        fetch_ready=module["fetch_ready"],
        fetch_index=module["fetch_index"],
        fetch_instruction=module["fetch_instruction"],
        halted=module["halted"],
        illegal=module["illegal"],
    )
    module.comment("for whoever watches: units that start and that are done, one bit a unit")
    for signal in ("start", "done"):
        bits = ", ".join(f"{unit.name.lower()}_{signal}" for unit in reversed(UNITS))
        module.assign(module[f"trace_{signal}"], f"{{{bits}}}")
    return module


def _ports(module: Module, architecture: Architecture) -> None:
    """The instruction stream, the AXI4 port and the trace."""
    bus = architecture.dram_bytes
    module.output("fetch_index", 32)
    module.input("fetch_valid")
    module.input("fetch_instruction", INSTRUCTION_BITS)
    module.output("fetch_ready")
    size = constant((min(architecture.columns, bus) - 1).bit_length(), 3)
    for channel in ("ar", "aw"):
        module.output(f"axi_{channel}valid")
        module.input(f"axi_{channel}ready")
        module.output(f"axi_{channel}addr", ADDRESS_BITS)
        module.output(f"axi_{channel}len", 8, constant(architecture.beats - 1, 8))
        module.output(f"axi_{channel}size", 3, size)
        module.output(f"axi_{channel}burst", 2, constant(1, 2))
    module.input("axi_rvalid")
    module.output("axi_rready")
    module.input("axi_rdata", bus * BYTE)
    module.output("axi_wvalid")
    module.input("axi_wready")
    module.output("axi_wdata", bus * BYTE)
    module.output("axi_wstrb", bus)
    module.output("axi_wlast")
    module.input("axi_bvalid")
    module.output("axi_bready", 1, constant(1, 1))
    module.output("trace_start", len(UNITS))
    module.output("trace_done", len(UNITS))


def _bus(module: Module, connections: dict[Unit, dict[str, Signal | None]]) -> None:
    """The load unit has the read half of the AXI4 port, the store unit the write half."""
    connections[Unit.LOAD] |= {
        "read_address_valid": module["axi_arvalid"],
        "read_address_ready": module["axi_arready"],
        "read_address": module["axi_araddr"],
        "read_data_valid": module["axi_rvalid"],
        "read_data": module["axi_rdata"],
        "read_data_ready": module["axi_rready"],
    }
    connections[Unit.STORE] |= {
        "write_address_valid": module["axi_awvalid"],
        "write_address_ready": module["axi_awready"],
        "write_address": module["axi_awaddr"],
        "write_data_valid": module["axi_wvalid"],
        "write_data_ready": module["axi_wready"],
        "write_data": module["axi_wdata"],
        "write_strobe": module["axi_wstrb"],
        "write_data_last": module["axi_wlast"],
        "write_answer_valid": module["axi_bvalid"],
    }


def _memories(module: Module, architecture: Architecture, connections: dict[Unit, dict[str, Signal | None]]) -> None:
    """Memories, and their ports at the units: `<memory>_read...` and `<memory>_write...`."""
    units = {unit.name.lower(): unit for unit in UNITS}
    for memory_kind in SINGULAR:
        name, word_bits = SINGULAR[memory_kind], BYTE * architecture.columns
        if memory_kind is Memory.ACCUMULATORS:
            word_bits = SUM_BITS * architecture.columns
        words = architecture.words(memory_kind)
        address_bits = bits_for(words)
        shapes = {"write": 1, "write_address": address_bits, "write_data": word_bits}
        shapes |= {"read": 1, "read_address": address_bits, "read_data": word_bits}
        module.comment(f"{memory_kind.name.lower()}")

        def port(user: str, signal: str, unit_port: str, name: str = name, shapes: dict[str, int] = shapes) -> Signal:
            """A wire between a unit and a memory."""
            wire = module.wire(f"{user}_{name}_{signal}", shapes[signal])
            connections[units[user]][unit_port] = wire
            return wire

        def loads(signal: str, memory_kind: Memory = memory_kind) -> Signal:
            return port("load", signal, f"{memory_kind.name.lower()}_{signal}")

        if memory_kind is Memory.TABLES:
            for signal in ("write", "write_address", "write_data"):
                connections[Unit.VECTOR][f"table_{signal}"] = loads(signal)
            continue
        if memory_kind in OWN:
            reader = OWN[memory_kind]
            module.instance(
                memory(word_bits, words),
                memory_kind.name.lower(),
                **{signal: loads(signal) for signal in ("write", "write_address", "write_data")},
                **{signal: port(reader, signal, f"{name}_{signal}") for signal in ("read_address", "read_data")},
            )
            continue
        readers, writers = SHARED[memory_kind]
        wires: dict[str, Signal | None] = {}
        for reader in readers:
            for signal in ("read", "read_address", "read_data"):
                wires[f"{reader}_{signal}"] = port(reader, signal, f"{name}_{signal}")
        for writer in writers:
            for signal in ("write", "write_address", "write_data"):
                wire = loads(signal) if writer == "load" else port(writer, signal, f"{name}_{signal}")
                wires[f"{writer}_{signal}"] = wire
        banks = architecture.banks(memory_kind)
        bank = banked_memory(f"systolic_{memory_kind.name.lower()}", word_bits, words, banks, readers, writers)
        module.instance(bank, memory_kind.name.lower(), **wires)
