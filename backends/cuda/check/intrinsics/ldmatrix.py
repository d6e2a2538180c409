"""ldmatrix and stmatrix: 8 x 8 matrices of 16-bit elements between shared memory and the registers of a warp."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..accesses import refuse_poison
from ..compiler import Compiler, Expression, intrinsic
from ..memory import Pointer
from ..state import State
from ..threads import WARP, Array
from ..traffic import Site
from ..violations import Misaligned
from .barriers import require_whole_warps
from .mma import write_registers
from .pointers import active_rows, offsets_of, pointer_operand, require_scope
from .ptx import decode, registers, target

ROW = 16  # bytes of a row of a matrix


@intrinsic("ptx.ldmatrix")
def _ldmatrix(c: Compiler, node: Any) -> Expression:
    """Lane 8 j + i gives the address of row i of matrix j; register j holds the lane's pair of matrix j."""
    instruction = decode(c, node)
    address = pointer_operand(c, instruction.operands["p"][0])
    puts = [target(c, each) for each in instruction.operands["r"]]
    transposed = bool(instruction.modifiers["trans"])
    site = c.site("ldmatrix")

    def run(s: State) -> None:
        found = load_matrices(s, address(s), len(puts), transposed, site)
        for number, put in enumerate(puts):
            put(s, found[:, number])

    return run


@intrinsic("ptx_legacy.ldmatrix")
def _legacy_ldmatrix(c: Compiler, node: Any) -> Expression:
    """Operands: transposed, matrices, ".b16", local pointer and offset, shared pointer and offset, in elements."""
    transposed, count = bool(int(node.args[0])), int(node.args[1])
    size = np.dtype(str(node.ty)).itemsize
    if transposed and size == 1:
        c.unknown("ldmatrix that transposes bytes")
    local, shared = pointer_operand(c, node.args[3]), pointer_operand(c, node.args[5])
    local_offset, shared_offset = c.expression(node.args[4]), c.expression(node.args[6])
    site = c.site("ldmatrix")

    def run(s: State) -> None:
        source = shared(s).moved(shared_offset(s).astype(np.int64) * size)
        found = load_matrices(s, source, count, transposed, site)
        to = local(s).moved(local_offset(s).astype(np.int64) * size)
        write_registers(s, to, np.ascontiguousarray(found).view(np.uint8).reshape(s.batch.size, -1))

    return run


def load_matrices(s: State, address: Pointer, count: int, transposed: bool, site: Site) -> Array:
    """The registers of all threads, uint32 [threads, count]."""
    rows, offsets = _matrix_rows(s, address, count, "ldmatrix")
    site.record(s, address.memory, offsets, ROW, rows)
    data = np.zeros((s.batch.size, ROW), dtype=np.uint8)
    data[rows] = address.memory.read_bytes(s, offsets, ROW, rows)
    matrices = s.batch.to_warps(data).view(np.uint16).reshape(s.batch.warps, 4, 8, 8)[:, :count]
    if transposed:
        matrices = matrices.swapaxes(2, 3)
    lane = np.arange(WARP)
    pairs = matrices.reshape(s.batch.warps, count, 8, 4, 2)[:, :, lane // 4, lane % 4]
    words = np.ascontiguousarray(pairs).view(np.uint32)[..., 0]
    return s.batch.from_warps(np.ascontiguousarray(words.swapaxes(1, 2)))


@intrinsic("ptx.stmatrix")
def _stmatrix(c: Compiler, node: Any) -> Expression:
    instruction = decode(c, node)
    address, values = pointer_operand(c, instruction.operands["p"][0]), registers(c, instruction.operands["r"])
    count, transposed = len(instruction.operands["r"]), bool(instruction.modifiers["trans"])

    def run(s: State) -> None:
        data = values(s)
        refuse_poison(s, "an operand of stmatrix")
        to = address(s)
        rows, offsets = _matrix_rows(s, to, count, "stmatrix")
        pairs = s.batch.to_warps(data).view(np.uint16).reshape(s.batch.warps, 8, 4, count, 2)
        matrices = pairs.transpose(0, 3, 1, 2, 4).reshape(s.batch.warps, count, 8, 8)
        whole = np.zeros((s.batch.warps, 4, 8, 8), dtype=np.uint16)
        whole[:, :count] = matrices.swapaxes(2, 3) if transposed else matrices
        lines = whole.reshape(s.batch.warps, WARP, 8).view(np.uint8)
        to.memory.write_bytes(s, offsets, s.batch.from_warps(lines)[rows], rows)

    return run


def _matrix_rows(s: State, address: Pointer, count: int, what: str) -> tuple[Array, Array]:
    """The threads that give addresses, and their bytes. Raises unless the warps are whole and the rows aligned."""
    require_whole_warps(s, what)
    require_scope(s, address.memory, "shared", f"the matrices of {what}")
    refuse_poison(s, f"the address of {what}")
    rows = active_rows(s)
    rows = rows[s.batch.lane[rows] < 8 * count]
    offsets = offsets_of(s, address, rows)
    outer = s.mask
    s.mask = np.zeros(s.batch.size, dtype=np.bool_)
    s.mask[rows] = True
    address.memory.check(s, offsets, ROW, aligned=False)
    s.mask = outer
    if (offsets % ROW).any():
        i = int(np.argmax(offsets % ROW != 0))
        s.fail(
            Misaligned,
            f"address of a row of {what} in {address.memory.name} must be a multiple of {ROW} bytes, "
            f"not {int(offsets[i])}",
            "make rows of the shared buffer a multiple of 8 elements",
            int(rows[i]),
        )
    return rows, offsets
