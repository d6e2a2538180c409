"""mma.sync: D = A B + C on the registers of a warp."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np

from ..accesses import refuse_poison
from ..compiler import Compiler, Expression, intrinsic
from ..memory import Memory, Pointer
from ..state import State
from ..threads import Array
from .barriers import require_whole_warps
from .fragments import a_fragment, b_fragment, c_fragment, gather, scatter
from .pointers import active_rows, offsets_of, pointer_operand, require_scope
from .ptx import TF32_BITS, decode, registers, target

ELEMENTS: dict[str, np.dtype] = {
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "tf32": np.dtype(np.float32),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "s8": np.dtype(np.int8),
    "u8": np.dtype(np.uint8),
    "s32": np.dtype(np.int32),
    "e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
LEGACY_NAMES = {"fp16": "f16", "fp32": "f32", "fp64": "f64", "int8": "s8", "uint8": "u8", "int32": "s32"}


@intrinsic("ptx.mma", "ptx.mma_f16acc", "ptx.mma_int", "ptx.mma_f64")
def _mma(c: Compiler, node: Any) -> Expression:
    instruction = decode(c, node)
    modifiers = instruction.modifiers
    shape = shape_of(modifiers["shape"])
    kinds = [modifiers[name] for name in ("atype", "btype", "ctype", "dtype")]
    ordinary = modifiers["alayout"] == "row" and modifiers["blayout"] == "col" and not modifiers.get("satfinite")
    odd = modifiers["shape"] == "m8n8k4" and kinds[0] != "f64"  # halves of a warp have fragments of their own
    if not ordinary or odd or any(kind not in ELEMENTS for kind in kinds):
        c.unknown(f"mma.{modifiers['shape']} of {kinds}")
    a, b, accumulator = (registers(c, instruction.operands[name]) for name in "abc")
    puts = [target(c, each) for each in instruction.operands["d"]]

    def run(s: State) -> None:
        require_whole_warps(s, "mma.sync")
        found = product(s, shape, kinds, a(s), b(s), accumulator(s))
        refuse_poison(s, "an operand of mma.sync")
        pieces = found.view(np.uint8).reshape(s.batch.size, len(puts), -1)
        for number, put in enumerate(puts):
            piece = np.ascontiguousarray(pieces[:, number])
            put(s, piece.view(f"u{piece.shape[1]}")[:, 0])

    return run


def shape_of(text: str) -> tuple[int, int, int]:
    """m, n and k of "m16n8k16"."""
    m, n, k = (int(part) for part in re.findall(r"\d+", text))
    return m, n, k


def product(s: State, shape: tuple[int, int, int], kinds: list[str], a: Array, b: Array, c: Array) -> Array:
    """D for every thread, [threads, elements], from the bytes of its registers [threads, bytes]."""
    m, n, k = shape
    addend, result = (ELEMENTS[kind] for kind in kinds[2:])
    width = ELEMENTS[kinds[0]].itemsize * 8
    first = gather(s.batch.to_warps(operand(a, kinds[0])), a_fragment(m, k, width), (m, k))
    second = gather(s.batch.to_warps(operand(b, kinds[1])), b_fragment(k, n, width), (k, n))
    third = gather(s.batch.to_warps(c.view(addend)), c_fragment(m, n), (m, n))
    return scattered(s, multiply(first, second, third, result), m, n)


def operand(data: Array, kind: str) -> Array:
    """The elements in the bytes of registers."""
    return (data.view(np.uint32) & TF32_BITS).view(np.float32) if kind == "tf32" else data.view(ELEMENTS[kind])


def multiply(a: Array, b: Array, c: Array, result: np.dtype) -> Array:
    """A B + C rounded once, or as integers that wrap."""
    wide = np.dtype(np.int64 if result.kind == "i" else np.float64)
    found: Array = (np.matmul(a.astype(wide), b.astype(wide)) + c.astype(wide)).astype(result)
    return found


def scattered(s: State, matrix: Array, m: int, n: int) -> Array:
    return np.ascontiguousarray(s.batch.from_warps(scatter(matrix, c_fragment(m, n))))


# ---- the older spelling: pointers to registers, and offsets in elements


def _legacy_name(kind: str) -> str:
    return LEGACY_NAMES.get(kind, kind)


@intrinsic("ptx_legacy.mma")
def _legacy_mma(c: Compiler, node: Any) -> Expression:
    """Operands: shape, layouts of A and B, dtypes of A, B and C, then pointer and offset of A, B and C, saturate."""
    shape = shape_of(str(node.args[0].value))
    layouts = [str(node.args[i].value) for i in (1, 2)]
    names = [_legacy_name(str(node.args[i].value)) for i in (3, 4, 5)]
    kinds = [*names, names[2]]
    if layouts != ["row", "col"] or any(kind not in ELEMENTS for kind in kinds):
        c.unknown(f"mma of {layouts} {kinds}")
    pointers = [pointer_operand(c, node.args[i]) for i in (6, 8, 10)]
    offsets = [c.expression(node.args[i]) for i in (7, 9, 11)]
    m, n, k = shape
    counts = [m * k // 32, k * n // 32, m * n // 32]

    def run(s: State) -> None:
        require_whole_warps(s, "mma.sync")
        parts = []
        for pointer, offset, kind, count in zip(pointers, offsets, kinds, counts, strict=False):
            size = ELEMENTS[kind].itemsize
            parts.append((pointer(s).moved(offset(s).astype(np.int64) * size), count * size))
        a, b, accumulator = (read_registers(s, pointer, width) for pointer, width in parts)
        refuse_poison(s, "an operand of mma.sync")
        found = product(s, shape, kinds, a, b, accumulator)
        write_registers(s, parts[2][0], found.view(np.uint8).reshape(s.batch.size, -1))

    return run


def read_registers(s: State, pointer: Pointer, width: int) -> Array:
    """`width` bytes of local memory of every thread; zero for inactive ones."""
    require_scope(s, pointer.memory, "local", "an operand of a matrix instruction")
    rows = active_rows(s)
    out = np.zeros((s.batch.size, width), dtype=np.uint8)
    out[rows] = pointer.memory.read_bytes(s, offsets_of(s, pointer, rows), width, rows)
    return out


def write_registers(s: State, pointer: Pointer, values: Array) -> None:
    """Write bytes, [threads, width], to local memory."""
    require_scope(s, pointer.memory, "local", "the result of a matrix instruction")
    rows = active_rows(s)
    pointer.memory.write_bytes(s, offsets_of(s, pointer, rows), values[rows], rows)


@intrinsic("mma_fill", "mma_fill_legacy")
def _fill(c: Compiler, node: Any) -> Expression:
    """Operands: elements of a thread, pointer, offset: zeros."""
    count, pointer, offset = int(node.args[0]), pointer_operand(c, node.args[1]), c.expression(node.args[2])
    size = np.dtype(str(node.ty)).itemsize

    def run(s: State) -> None:
        moved = pointer(s).moved(offset(s).astype(np.int64) * size)
        write_registers(s, moved, np.zeros((s.batch.size, count * size), dtype=np.uint8))

    return run


@intrinsic("mma_store", "mma_store_legacy")
def _store(c: Compiler, node: Any) -> Expression:
    """Operands: m, n, target, source, offset of the source, elements of a row of the target: a 16 x 16 result."""
    m, n = int(node.args[0]), int(node.args[1])
    if (m, n) != (16, 16):
        c.unknown(f"mma_store of {m} x {n}")
    to, source = pointer_operand(c, node.args[2]), pointer_operand(c, node.args[3])
    offset, stride = c.expression(node.args[4]), c.expression(node.args[5])
    dtype = np.dtype(str(node.ty))
    rows_of, columns_of = c_fragment(16, 8)
    local_rows = np.concatenate([rows_of, rows_of], axis=1)
    local_columns = np.concatenate([columns_of, columns_of + 8], axis=1)

    def run(s: State) -> None:
        values = read_registers(s, source(s).moved(offset(s).astype(np.int64) * dtype.itemsize), 8 * dtype.itemsize)
        refuse_poison(s, "the operand of mma_store")
        there, rows = to(s), active_rows(s)
        lanes = s.batch.lane[rows]
        step = np.broadcast_to(stride(s), (s.batch.size,))[rows].astype(np.int64)[:, None]
        at = (local_rows[lanes] * step + local_columns[lanes]) * dtype.itemsize
        memory: Memory = there.memory
        offsets = offsets_of(s, there, rows)[:, None] + at
        memory.write_bytes(s, offsets, values.reshape(s.batch.size, 8, dtype.itemsize)[rows], rows)

    return run
