"""Zero borders that need no filling: haloed storages of one shape share memory that nothing else ever uses.

A caller's arena is zero when it is made, and kernels write inside a border only, so such memory keeps its border.
"""

from __future__ import annotations

from collections.abc import Sequence

from .kernels.pointwise import FillFrame
from .lowering import KernelCall
from .memory import Lifetime, plan
from .views import Storage

# Memory that only keeps borders costs every caller: a tenth of the arena at the most, or what nobody notices.
_MOST_SHARE = 0.1
_FREE_BYTES = 1 << 16


def keep_borders(calls: Sequence[KernelCall], lifetimes: Sequence[Lifetime]) -> dict[Storage, Storage]:
    """Map haloed storages to the storage of the same shape whose memory they share from the first call to the last.

    The `FillFrame` of a storage in the map can be left out. Shapes with the most borders a byte come first; one that
    makes the arena too large is left as it is.
    """
    frames = {
        call.views[0].storage: call.kernel
        for call in calls
        if isinstance(call.kernel, FillFrame) and call.kernel.value == 0
    }
    groups: dict[FillFrame, list[Lifetime]] = {}
    for lifetime in lifetimes:
        if lifetime.storage in frames:
            groups.setdefault(frames[lifetime.storage], []).append(lifetime)
    shared = [_share(group) for group in groups.values()]
    kept: dict[Storage, Storage] = {}
    needed = plan(lifetimes)
    most = needed + max(_MOST_SHARE * needed, _FREE_BYTES)
    for group in sorted(shared, key=lambda group: sum(s.bytes for s in set(group.values())) / len(group)):
        wider = kept | group
        if plan(merged(lifetimes, wider)) <= most:
            kept = wider
    return kept


def merged(lifetimes: Sequence[Lifetime], kept: dict[Storage, Storage]) -> list[Lifetime]:
    """The lifetimes with shared storages alive throughout."""
    last = max((each.last for each in lifetimes), default=0)
    others = [each for each in lifetimes if each.storage not in kept]
    return others + [Lifetime(storage, 0, last) for storage in dict.fromkeys(kept.values())]


def _share(group: Sequence[Lifetime]) -> dict[Storage, Storage]:
    """Give each storage the first one of its shape that is free by then, or its own."""
    busy_until: dict[Storage, int] = {}
    chosen: dict[Storage, Storage] = {}
    for lifetime in sorted(group, key=lambda each: each.first):
        free = (storage for storage, until in busy_until.items() if until < lifetime.first)
        storage = next(free, lifetime.storage)
        busy_until[storage] = lifetime.last
        chosen[lifetime.storage] = storage
    return chosen
