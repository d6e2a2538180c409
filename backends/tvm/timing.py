"""The kernels of a lowered Program on their own, for who wants to know how long each takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...cpu import CpuTarget
from ...kernel_times import KernelUse, TimingCode
from .build import compile_library
from .kernels.base import Call, run_module
from .lowering import KernelCall
from .memory import ALIGNMENT
from .views import ITEM_SIZES, Storage

CONSTANTS, ARENA = range(2)  # entries of the address table
MARGIN = 4096
"""Bytes before and after everything: kernels may read a little beyond their operands."""


def kernel_uses(calls: Iterable[KernelCall]) -> list[KernelUse]:
    """What each call is, in order; equal kernels have equal keys."""
    return [
        KernelUse(
            node=call.node.name if call.node is not None else "",
            key=repr(call.kernel),
            kernel=call.kernel.describe(),
            flops=call.kernel.flops(),
            bytes=call.kernel.traffic([view.bytes for view in call.views]),
            integer=any(view.dtype in ("int8", "uint8") for view in call.views[:-1]),
        )
        for call in calls
    ]


def timing_code(calls: Sequence[KernelCall], keys: Sequence[str], target: CpuTarget) -> TimingCode:
    """A library whose call number i is of the kernel with the key `keys[i]`, on operands that lie as in `calls`.

    What kernels only read lies apart, each call's values begin at the same place: as in a run, where one call writes
    what the next one reads, and weights come from far away.
    """
    by_key: dict[str, KernelCall] = {}
    for call in calls:
        by_key.setdefault(repr(call.kernel), call)
    ends = [MARGIN, MARGIN]
    constants: dict[Storage, int] = {}
    made = []
    for key in keys:
        call, values, end = by_key[key], dict[Storage, int](), MARGIN
        arguments = []
        for view in call.views:
            storage, item = view.storage, ITEM_SIZES[view.dtype]
            fixed = storage.space in ("constant", "derived")
            if fixed and storage not in constants:
                constants[storage] = ends[CONSTANTS]
                ends[CONSTANTS] = _after(ends[CONSTANTS], storage)
            if not fixed and storage not in values:
                values[storage] = end
                end = _after(end, storage)
            start = constants[storage] if fixed else values[storage]
            arguments.append((CONSTANTS if fixed else ARENA, start // item + view.offset))
        ends[ARENA] = max(ends[ARENA], end)
        made.append(Call(call.kernel, tuple(arguments)))
    extensions = {extension for call in made for extension in call.kernel.extensions()}
    library = compile_library(run_module(made, len(ends)), target, extensions)
    return TimingCode(library, len(made), tuple(end + MARGIN for end in ends))


def _after(offset: int, storage: Storage) -> int:
    return offset + storage.bytes + -storage.bytes % ALIGNMENT
