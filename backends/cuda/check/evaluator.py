"""`evaluate`: run the lowered TIR of one kernel on NumPy arrays and find what no CUDA kernel may do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ....errors import InvalidInput
from ..architectures import ARCHITECTURES, KIB, Architecture
from . import expressions, indexing, intrinsics, statements, vectors
from .compiler import Compiler
from .dtypes import split
from .memory import Memory, Pointer, SharedWindow
from .races import Tracker
from .report import Report
from .state import State
from .threads import TAGS, Array, Batch, Launch
from .violations import LimitExceeded, Place

_RULES = (expressions, vectors, indexing, statements, intrinsics)  # imported so that they enter their rules
STATIC_SHARED = 48 * KIB  # bytes of a block that need not be asked for at launch
GRID_LIMITS = (2**31 - 1, 65535, 65535)
BLOCK_LIMITS = (1024, 1024, 64)
PADDING = 16  # allocations are a multiple of this many bytes, so that every dtype fits


def evaluate(
    function: Any,
    *arguments: np.ndarray | int,
    architecture: Architecture | None = None,
    functions: Mapping[str, Callable[..., Any]] | None = None,
) -> Report:
    """Run a kernel: `function` is a lowered PrimFunc of a device module, as CUDA code would be generated from it.

    Arguments are in the order of its parameters: an array for each pointer, written in place, and an integer for each
    scalar. `functions` defines external functions of C, by name, on arrays with one entry for each thread.
    `architecture` sets the limits; by default it is that of the function's target.

    Raises a Violation for the first rule that the kernel breaks, InvalidInput for arguments that do not fit.
    """
    name = str(function.attrs["global_symbol"]) if "global_symbol" in function.attrs else "kernel"
    compiler = Compiler(function, name, dict(functions or {}))
    body = compiler.statement_of(function.body)
    scalars, arrays = _arguments(compiler, function, arguments)
    limits = architecture or _architecture(function)
    launch = _launch(compiler, scalars)
    sizes = {slot: _bytes(buffer) for slot, buffer in compiler.allocations}
    shared = _check_limits(compiler, launch, sizes, limits)
    memories = {slot: _global_memory(compiler, slot, array, name) for slot, (name, array) in arrays.items()}
    with np.errstate(all="ignore"):
        for batch in launch.batches():
            state = State(batch, len(compiler.slots), compiler.locate)
            for slot, value in scalars.items():
                state.variables[slot] = value
            for slot, memory in memories.items():
                state.variables[slot] = Pointer(memory, np.asarray(0))
            for slot, tag in compiler.threads.items():
                state.variables[slot] = batch.index[tag]
            _allocate(compiler, state, batch, sizes)
            body(state)
    registers = sum(size for slot, size in sizes.items() if _scope(compiler, slot) == "local")
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


def _check_limits(c: Compiler, launch: Launch, sizes: Mapping[int, int], limits: Architecture) -> int:
    """Raise LimitExceeded where a launch cannot be; the bytes of shared memory of a block."""
    place = Place(c.name, 0, f"launch of {launch.grid} blocks of {launch.block} threads")
    by_scope = {scope: [slot for slot, b in c.allocations if b.scope() == scope] for scope in ("shared", "shared.dyn")}
    static, dynamic = (sum(sizes[slot] for slot in slots) for slots in by_scope.values())
    most = limits.block_threads
    checks = [
        ("threads of a block", launch.threads, most, "make blocks smaller"),
        ("bytes of static shared memory", static, STATIC_SHARED, "use one allocation of scope shared.dyn"),
        ("bytes of shared memory of a block", static + dynamic, limits.block_shared, "use smaller tiles"),
        ("allocations of scope shared.dyn", len(by_scope["shared.dyn"]), 1, "merge them: all begin at one address"),
    ]
    for axis in range(3):
        letter = "xyz"[axis]
        checks.append((f"blocks in {letter}", launch.grid[axis], GRID_LIMITS[axis], "spread them over axes"))
        checks.append((f"threads in {letter}", launch.block[axis], BLOCK_LIMITS[axis], "spread them over axes"))
    for what, found, limit, remedy in checks:
        if found > limit:
            raise LimitExceeded(f"{what} must be at most {limit} on {limits.name}, not {found}", remedy, place)
    return static + dynamic


def _bytes(buffer: Any) -> int:
    dtype, lanes = split(str(buffer.dtype))
    return math.prod(int(extent) for extent in buffer.shape) * dtype.itemsize * lanes


def _scope(c: Compiler, slot: int) -> str:
    """The scope of an allocation: "shared", dynamic or not, or "local"."""
    buffer = next(buffer for each, buffer in c.allocations if each == slot)
    scope = str(buffer.scope())
    if scope not in ("local", "shared", "shared.dyn"):
        c.unknown(f"allocation {buffer.name} of scope {scope}")
    return scope.partition(".")[0]


def _granule(c: Compiler, root: int) -> int:
    """Bytes of the smallest element of the buffers that point into an allocation or parameter."""
    return min((size for slot, size in c.items.items() if c.root(slot) == root), default=1)


def _global_memory(c: Compiler, slot: int, array: Array, name: str) -> Memory:
    data = array.reshape(-1).view(np.uint8).reshape(1, -1)
    granule = _granule(c, slot)
    loaded, stored = (any(c.root(each) == slot for each in slots) for slots in (c.loaded, c.stored))
    tracker = None
    if stored:
        tracker = Tracker(name, -(-data.shape[1] // granule), private=False, written=True, reads=loaded)
    return Memory(name, "global", data, data.shape[1], granule, tracker)


def _allocate(c: Compiler, s: State, batch: Batch, sizes: Mapping[int, int]) -> None:
    """Shared memory of each block and registers of each thread of a batch."""
    c.window = SharedWindow()
    for slot, buffer in c.allocations:
        scope, granule = _scope(c, slot), _granule(c, slot)
        rows = batch.blocks if scope == "shared" else batch.size
        width = -(-sizes[slot] // PADDING) * PADDING
        data = np.zeros((rows, width), dtype=np.uint8)
        name = str(buffer.name) or f"{scope} memory"
        tracker = None
        if scope == "shared":
            tracker = Tracker(name, rows * width // granule, private=True, written=False, reads=True)
        memory = Memory(name, scope, data, sizes[slot], granule, tracker)
        if scope == "shared":
            c.window.place(memory)
        s.variables[slot] = Pointer(memory, np.asarray(0))
