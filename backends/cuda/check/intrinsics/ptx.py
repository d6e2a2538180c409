"""How TVM writes a PTX instruction as a call: operands, then the modifiers of its dotted name, then flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.backend.cuda.ptx import table

from ..accesses import store
from ..compiler import Compiler, Expression, Statement, name_of
from ..dtypes import split
from ..expressions import convert
from ..indexing import flat_index
from ..memory import Pointer
from ..state import State
from ..threads import Array

TF32_BITS = np.uint32(0xFFFFE000)  # of a float32 that are read as tf32


@dataclass(frozen=True)
class Instruction:
    """A decoded call: its modifiers by name ("" where left out) and the nodes of each operand."""

    modifiers: dict[str, str]
    operands: dict[str, list[Any]]


def decode(c: Compiler, node: Any) -> Instruction:
    """Read a call of a PTX instruction by TVM's table of them."""
    entry = table.TABLE[name_of(node).removeprefix("ptx.")]
    flags = str(node.args[-1].value).split(",")
    if any(flag not in ("", "keep") for flag in flags):
        c.unknown(f"a predicate or a discarded operand of {entry.name}")
    tokens = [str(each.value) for each in node.args[len(node.args) - len(entry.slots) - 1 : -1]]
    modifiers = table.mods(entry, tokens)
    layout = table.operand_layout(entry, modifiers)
    operands = {slot.name: list(node.args[first : first + lanes]) for slot, first, lanes in layout}
    return Instruction(modifiers, operands)


def target(c: Compiler, node: Any) -> Any:
    """A function of the state and a value that writes a destination register: an element of a local buffer."""
    if not hasattr(node, "source"):
        c.unknown(f"destination {node}")
    slot, index = c.slot(node.source), flat_index(c, node.source, node.indices)
    dtype, _ = split(str(node.source.dtype))
    site = c.site("store")

    def put(s: State, value: Array) -> None:
        pointer: Pointer = s.variables[slot]
        at = index(s)
        if pointer.offset.ndim or pointer.offset != 0:
            at = at + pointer.offset // dtype.itemsize
        store(s, pointer.memory, dtype, at, bits(value, dtype), 1, site)

    return put


def bits(value: Array, dtype: np.dtype) -> Array:
    """The same bits as another dtype of the same size."""
    return np.ascontiguousarray(value).view(dtype)


def registers(c: Compiler, nodes: list[Any]) -> Expression:
    """The registers of an operand side by side, as bytes: [threads, bytes]."""
    values = [c.expression(each) for each in nodes]

    def run(s: State) -> Array:
        parts = [np.ascontiguousarray(np.broadcast_to(each(s), (s.batch.size,))) for each in values]
        return np.concatenate([part.view(np.uint8).reshape(s.batch.size, -1) for part in parts], axis=1)

    return run


def unary(c: Compiler, node: Any, function: Any) -> Statement:
    """An instruction `d = function(a, ...)` of scalar registers."""
    instruction = decode(c, node)
    (destination,) = instruction.operands["d"]
    put, dtype = target(c, destination), split(str(destination.source.dtype))[0]
    values = [c.expression(part) for name, parts in instruction.operands.items() if name != "d" for part in parts]

    def run(s: State) -> None:
        put(s, np.broadcast_to(convert(function(*(each(s) for each in values)), dtype), (s.batch.size,)))

    return run
