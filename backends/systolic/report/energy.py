"""An estimate of energy: how often things happen times what each costs, from a table that users may edit.

`energy.json` beside this file holds the table and its source. The paper gives a range for DRAM, of which the table has
the middle, and three sizes of caches, between which (and beyond) the cost follows a power of the size. Control, clocks,
wires of the array and leakage are not counted: compare architectures with it, do not size a battery.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ....errors import InvalidInput
from ..architecture import Architecture, Memory

DEFAULT_TABLE = Path(__file__).with_name("energy.json")
_WORD = 8  # bytes that the table's memory accesses have
PICO = 1e-12


@dataclass(frozen=True)
class EnergyTable:
    """Picojoules of an operation, and of 64 bits read from or written to a memory of so many bytes, and to DRAM."""

    source: str
    operations: Mapping[str, float]
    memories: Sequence[tuple[float, float]]
    dram: float

    @classmethod
    def load(cls, path: Path = DEFAULT_TABLE) -> EnergyTable:
        """Read a table. Raises InvalidInput when the file is not one."""
        try:
            data = json.loads(path.read_text())
            memories = sorted((float(size), float(cost)) for size, cost in data["memory_pj_for_64_bits"])
            operations = {name: float(data["operations_pj"][name]) for name in ("multiply_8", "multiply_32", "add_32")}
            table = cls(str(data["source"]), operations, memories, float(data["dram_pj_for_64_bits"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"energy table must be a JSON file like {DEFAULT_TABLE.name}, not {str(path)!r}: {error!r}"
            ) from error
        if len(memories) < 2 or min(size for size, _ in memories) <= 0 or min(cost for _, cost in memories) <= 0:
            raise InvalidInput(f"energy table must have at least two memories with sizes above 0, not {memories}")
        return table

    def memory(self, size: float) -> float:
        """Picojoules of a byte read from or written to a memory of `size` bytes."""
        pairs = list(zip(self.memories, self.memories[1:], strict=False))
        (small, low), (large, high) = next((pair for pair in pairs if size <= pair[1][0]), pairs[-1])
        power = math.log(high / low) / math.log(large / small)
        return low * math.pow(size / small, power) / _WORD

    def joules(
        self, architecture: Architecture, traffic: Mapping[tuple[Memory, str], int], multiply: int, vector: int
    ) -> dict[str, float]:
        """Joules by part of the machine.

        `multiply` and `vector` are the cycles in which the array and the vector unit are busy: every cell multiplies
        and adds, every lane requantises, whether on useful data or not.
        """
        cell = self.operations["multiply_8"] + self.operations["add_32"]
        lane = self.operations["multiply_32"] + self.operations["add_32"]
        parts = {
            "array": multiply * architecture.rows * architecture.columns * cell,
            "vector": vector * architecture.vector_lanes * lane,
            "scratchpads": 0.0,
            "dram": 0.0,
        }
        for (memory, _), size in traffic.items():
            if memory is Memory.DRAM:
                parts["dram"] += size * self.dram / _WORD
            else:
                parts["scratchpads"] += size * self.memory(_bank_bytes(architecture, memory))
        return {name: value * PICO for name, value in parts.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain data, as `load` reads it."""
        return {
            "source": self.source,
            "operations_pj": dict(self.operations),
            "memory_pj_for_64_bits": [list(pair) for pair in self.memories],
            "dram_pj_for_64_bits": self.dram,
        }


@cache
def _bank_bytes(architecture: Architecture, memory: Memory) -> int:
    item = 4 if memory is Memory.ACCUMULATORS else 1
    return architecture.bank_words(memory) * architecture.columns * item
