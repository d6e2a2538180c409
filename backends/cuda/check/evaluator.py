"""`evaluate`: run the lowered TIR of one kernel on NumPy arrays and find what no CUDA kernel may do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ....errors import InvalidInput
from ..architectures import ARCHITECTURES, KIB, Architecture
from . import expressions, indexing, intrinsics, statements, vectors
from .allocation import Allocation, allocate, allocations, global_memories
from .compiler import Compiler
from .dtypes import split
from .memory import Pointer
from .report import Report
from .state import State
from .threads import TAGS, Array, Batch, Launch
from .violations import LimitExceeded, Place

_RULES = (expressions, vectors, indexing, statements, intrinsics)  # imported so that they enter their rules
STATIC_SHARED = 48 * KIB  # bytes of a block that need not be asked for at launch
GRID_LIMITS = (2**31 - 1, 65535, 65535)
BLOCK_LIMITS = (1024, 1024, 64)


def evaluate(
    function: Any,
    *arguments: np.ndarray | int,
    architecture: Architecture | None = None,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    blocks: Sequence[int] | None = None,
) -> Report:
    """Run a kernel: `function` is a lowered PrimFunc of a device module, as CUDA code would be generated from it.

    Arguments are in the order of its parameters: an array for each pointer, written in place, and an integer for each
    scalar. `functions` defines external functions of C, by name, on arrays with one entry for each thread.
    `architecture` sets the limits; by default it is that of the function's target. `blocks` are the numbers of the
    blocks to run, x fastest, of kernels that are too large to run whole.

    Raises a Violation for the first rule that the kernel breaks, InvalidInput for arguments that do not fit.
    """
    name = str(function.attrs["global_symbol"]) if "global_symbol" in function.attrs else "kernel"
    compiler = Compiler(function, name, dict(functions or {}))
    body = compiler.statement_of(function.body)
    scalars, arrays = _arguments(compiler, function, arguments)
    limits = architecture or _architecture(function)
    launch = _launch(compiler, scalars)
    if blocks is not None and not all(0 <= number < launch.blocks for number in blocks):
        raise InvalidInput(f"blocks must be numbers from 0 to {launch.blocks - 1}, not {list(blocks)}")
    planned = allocations(compiler)
    shared = _check_limits(name, launch, planned, limits)
    memories = global_memories(compiler, arrays)
    with np.errstate(all="ignore"):
        for batch in launch.batches(blocks):
            state = State(batch, len(compiler.slots), compiler.locate)
            for slot, value in scalars.items():
                state.variables[slot] = value
            for slot, memory in memories.items():
                state.variables[slot] = Pointer(memory, np.asarray(0))
            for slot, tag in compiler.threads.items():
                state.variables[slot] = batch.index[tag]
            allocate(compiler, state, planned)
            body(state)
    registers = sum(each.size for each in planned if each.scope == "local")
    return Report(name, launch, shared, registers, tuple(compiler.sites))


def _arguments(c: Compiler, function: Any, arguments: Any) -> tuple[dict[int, Any], dict[int, tuple[str, Array]]]:
    """Scalars and arrays by the slots of their parameters. Raises InvalidInput."""
    if len(arguments) != len(function.params):
        raise InvalidInput(f"arguments must be {len(function.params)}, one a parameter, not {len(arguments)}")
    scalars: dict[int, Any] = {}
    arrays: dict[int, tuple[str, Array]] = {}
    for parameter, value in zip(function.params, arguments, strict=True):
        slot = c.slot(parameter)
        if type(parameter.ty).__name__ != "PointerType":
            scalars[slot] = np.asarray(value, dtype=split(str(parameter.ty))[0])
            continue
        wanted, _ = split(str(parameter.ty.element_type))
        if not isinstance(value, np.ndarray) or value.dtype != wanted or not value.flags.c_contiguous:
            found = f"{value.dtype} of strides {value.strides}" if isinstance(value, np.ndarray) else repr(value)
            raise InvalidInput(f"argument {parameter.name} must be a contiguous array of {wanted}, not {found}")
        arrays[slot] = (str(parameter.name), value)
    return scalars, arrays


def _architecture(function: Any) -> Architecture:
    target = function.attrs["target"] if "target" in function.attrs else None
    name = str(target.attrs["arch"]) if target is not None and "arch" in target.attrs else ""
    return ARCHITECTURES.get(name, ARCHITECTURES["sm_80"])


def _launch(c: Compiler, scalars: Mapping[int, Any]) -> Launch:
    """Grid and block from the extents that the kernel declares; they may be computed from its scalars."""
    single = Batch(Launch((1, 1, 1), (1, 1, 1)), 0, 1)
    state = State(single, len(c.slots), c.locate)
    for slot, value in scalars.items():
        state.variables[slot] = value
    extents = dict.fromkeys(TAGS, 1)
    for tag, extent in c.extents:
        if tag not in extents:
            c.unknown(f"thread axis {tag}")
        extents[tag] = int(extent(state))
    x, y, z, *block = (extents[tag] for tag in TAGS)
    return Launch((x, y, z), (block[0], block[1], block[2]))


def _check_limits(name: str, launch: Launch, planned: Sequence[Allocation], limits: Architecture) -> int:
    """Raise LimitExceeded where a launch cannot be; the bytes of shared memory of a block."""
    place = Place(name, 0, f"launch of {launch.grid} blocks of {launch.block} threads")
    sizes = {scope: [each.size for each in planned if each.scope == scope] for scope in ("shared", "shared.dyn")}
    static, dynamic = (sum(found) for found in sizes.values())
    checks = [
        ("threads of a block", launch.threads, limits.block_threads, "make blocks smaller"),
        ("bytes of static shared memory", static, STATIC_SHARED, "use one allocation of scope shared.dyn"),
        ("bytes of shared memory of a block", static + dynamic, limits.block_shared, "use smaller tiles"),
        ("allocations of scope shared.dyn", len(sizes["shared.dyn"]), 1, "merge them: all begin at one address"),
    ]
    for axis in range(3):
        letter = "xyz"[axis]
        checks.append((f"blocks in {letter}", launch.grid[axis], GRID_LIMITS[axis], "spread them over axes"))
        checks.append((f"threads in {letter}", launch.block[axis], BLOCK_LIMITS[axis], "spread them over axes"))
    for what, found, limit, remedy in checks:
        if found > limit:
            raise LimitExceeded(f"{what} must be at most {limit} on {limits.name}, not {found}", remedy, place)
    return static + dynamic
