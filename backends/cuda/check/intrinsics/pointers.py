"""Addresses: of elements, of whole buffers, moved, and as the integers that instructions on shared memory take."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compiler import Compiler, Expression, intrinsic
from ..dtypes import split
from ..indexing import flat_index
from ..memory import Memory, Pointer
from ..state import State
from ..threads import Array
from ..violations import InvalidOperand


@intrinsic("buffer_data")
def _buffer_data(c: Compiler, node: Any) -> Expression:
    slot = c.slot(node.args[0])
    c.loaded.add(slot)
    return lambda s: s.variables[slot]


@intrinsic("address_of")
def _address_of(c: Compiler, node: Any) -> Expression:
    load = node.args[0]
    if not hasattr(load, "source"):
        return c.expression(load)
    slot, index = c.slot(load.source), flat_index(c, load.source, load.indices)
    c.loaded.add(slot)
    dtype, lanes = split(str(load.source.dtype))
    size = dtype.itemsize * lanes

    def run(s: State) -> Pointer:
        pointer: Pointer = s.variables[slot]
        at = index(s)
        return pointer.moved((at[:, 0] if at.ndim == 2 else at).astype(np.int64) * size)

    return run


@intrinsic("tvm_access_ptr")
def _access_pointer(c: Compiler, node: Any) -> Expression:
    """Operands: a value of the element's dtype, the memory, elements from its start, extent, how it is used."""
    dtype, lanes = split(str(node.args[0].ty))
    pointer, offset, size = c.expression(node.args[1]), c.expression(node.args[2]), dtype.itemsize * lanes

    def run(s: State) -> Pointer:
        base: Pointer = pointer(s)
        return base.moved(offset(s).astype(np.int64) * size)

    return run


@intrinsic("handle_add_byte_offset", "ptx.addr")
def _moved(c: Compiler, node: Any) -> Expression:
    pointer, offset = c.expression(node.args[0]), c.expression(node.args[1])

    def run(s: State) -> Any:
        base = pointer(s)
        return base.moved(offset(s).astype(np.int64)) if isinstance(base, Pointer) else base + offset(s)

    return run


@intrinsic("cuda.cvta_generic_to_shared")
def _shared_address(c: Compiler, node: Any) -> Expression:
    """The integer address of shared memory, as ldmatrix and cp.async take it."""
    pointer = c.expression(node.args[0])

    def run(s: State) -> Array:
        found: Pointer = pointer(s)
        if found.memory.scope != "shared":
            s.fail(
                InvalidOperand,
                f"address of {found.memory.name} must be in shared memory, not in {found.memory.scope} memory",
                "give the instruction a shared buffer",
            )
        return (found.offset + found.memory.address).astype(np.uint32)

    return run


def pointer_operand(c: Compiler, node: Any) -> Expression:
    """An operand that is a pointer, or the integer address of shared memory."""
    value = c.expression(node)

    def run(s: State) -> Pointer:
        found = value(s)
        if isinstance(found, Pointer):
            return found
        pointer: Pointer = c.window.pointer(s, found)
        return pointer

    return run


def offsets_of(s: State, pointer: Pointer, rows: Array) -> Array:
    """The byte offsets of these threads."""
    return np.broadcast_to(pointer.offset, (s.batch.size,))[rows].astype(np.int64)


def require_scope(s: State, memory: Memory, scope: str, what: str) -> None:
    if memory.scope != scope:
        s.fail(
            InvalidOperand,
            f"{what} must be in {scope} memory, not {memory.name} in {memory.scope} memory",
            f"give it a buffer of scope {scope}",
        )


def active_rows(s: State) -> Array:
    """Rows of the active threads."""
    return s.batch.row if s.mask is None else np.flatnonzero(s.mask)
