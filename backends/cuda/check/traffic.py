"""What an access costs: sectors of global memory it moves, passes over the banks of shared memory it needs.

Counted on the first executions of each access, since a kernel repeats the same pattern at other addresses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .memory import Memory
from .state import State
from .threads import WARP, Array

SECTOR = 32  # bytes that global memory moves at least
BANKS = 32
BANK = 4  # bytes of one bank in one pass
SAMPLED_EXECUTIONS = 2
SAMPLED_WARPS = 8


@dataclass(eq=False)
class Site:
    """One access in the text of a kernel.

    `requests` counts those of a warp that were sampled; `transactions` what they took: sectors of global memory or
    passes over the banks of shared memory; `ideal` what the same bytes take at least. `executions` counts all
    evaluations of the access, each by the active threads of a batch.
    """

    statement: Any
    kind: str  # "load", "store", "copy from", "copy to", "ldmatrix"
    memory: str = ""
    scope: str = ""
    width: int = 0  # bytes of one thread in one request
    executions: int = 0
    requests: int = 0
    transactions: int = 0
    ideal: int = 0
    sampled: int = field(default=0, repr=False)

    def record(self, s: State, memory: Memory, offsets: Array, width: int, rows: Array) -> None:
        """Note an execution by these threads at these bytes; further axes of `offsets` are requests of their own."""
        self.executions += 1
        if self.sampled >= SAMPLED_EXECUTIONS or len(rows) == 0 or memory.scope == "local":
            return
        self.sampled += 1
        self.memory, self.scope, self.width = memory.name, memory.scope, width
        batch = s.batch
        for lanes in offsets.reshape(len(rows), -1).T:
            address = np.full(batch.warps * WARP, -1, dtype=np.int64)
            address[batch.slot[rows]] = lanes
            warps = address.reshape(batch.warps, WARP)
            warps = warps[(warps >= 0).any(axis=1)][:SAMPLED_WARPS]
            self.requests += len(warps)
            count = _sectors if memory.scope == "global" else _passes
            transactions, ideal = count(warps, width)
            self.transactions += transactions
            self.ideal += ideal


def _distinct(values: Array) -> Array:
    """For each row, sorted: which entries are the first of their value and not negative."""
    ordered = np.sort(values, axis=1)
    first = np.ones(ordered.shape, dtype=np.bool_)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    found: Array = first & (ordered >= 0)
    return found


def _sectors(address: Array, width: int) -> tuple[int, int]:
    """Sectors that each warp's addresses touch, and the least that as many different bytes touch."""
    last = np.where(address >= 0, (address + width - 1) // SECTOR, -1)
    first = np.where(address >= 0, address // SECTOR, -1)
    touched = int(_distinct(np.concatenate([first, last], axis=1)).sum())
    different = _distinct(address).sum(axis=1) * width
    return touched, int((-(-different // SECTOR)).sum())


def _passes(address: Array, width: int) -> tuple[int, int]:
    """Passes over the banks: lanes whose words share a bank and differ wait for each other.

    Accesses of 8 and 16 bytes go by half and quarter warps, each of which fills the banks once.
    """
    words = max(1, width // BANK)
    groups = address.reshape(-1, WARP // words)
    word = np.where(groups >= 0, groups // BANK, -1)[:, :, None] + np.where(groups >= 0, 0, -1)[:, :, None]
    word = np.where(word >= 0, word + np.arange(words), -1).reshape(len(groups), -1)
    ordered = np.sort(word, axis=1)
    kept = _distinct(word)
    counts = np.zeros((len(groups), BANKS), dtype=np.int64)
    group, entry = np.nonzero(kept)
    np.add.at(counts, (group, ordered[group, entry] % BANKS), 1)
    busy = kept.any(axis=1)
    return int(counts.max(axis=1)[busy].sum()), int(busy.sum())
