"""What a compiled model costs on the machine, layer by layer: the data behind tables, pictures and sweeps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..architecture import Architecture, Memory, Unit
from ..layout import ITEMS, Layout
from ..program import SystolicProgram
from ..simulator.timeline import Timeline
from .energy import EnergyTable
from .scalesim import Gemm, baseline_scalesim


@dataclass(frozen=True)
class LayerFacts:
    """What the compiler knows of a layer: `macs` are useful products, `gemm` the matrix products it amounts to."""

    name: str
    op: str = ""
    source: str = ""
    shape: str = ""
    macs: int = 0
    gemm: Gemm | None = None
    tiling: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerFacts:
        """What `asdict` made."""
        gemm = data["gemm"]
        return cls(**{**data, "gemm": None if gemm is None else tuple(gemm)})


@dataclass(frozen=True)
class LayerCost:
    """A layer's part of a run.

    `cycles` are what its end adds to the end of all layers before it, so that they add up to the run; `busy` counts
    the cycles of each unit ("load", "array", "vector", "store"), which overlap. Bytes are of DRAM read and written, and
    of all memories on the chip. `energy` is in joules, by part.
    """

    facts: LayerFacts
    program: int
    cycles: int
    busy: Mapping[str, int]
    dram_read: int
    dram_written: int
    scratchpad_bytes: int
    energy: Mapping[str, float]

    @property
    def dram_bytes(self) -> int:
        return self.dram_read + self.dram_written

    @property
    def joules(self) -> float:
        return sum(self.energy.values())

    @property
    def bound_by(self) -> str:
        """The unit that is busy most; nothing when none is."""
        return max(self.busy, key=lambda unit: self.busy[unit], default="")


@dataclass(frozen=True)
class Transfer:
    """What the CPU writes to DRAM before a program runs, and reads from it after, in bytes."""

    program: int
    written: int
    read: int

    @classmethod
    def of(cls, index: int, program: SystolicProgram) -> Transfer:
        """The inputs and outputs of a program."""
        return cls(index, *(sum(_bytes(value.layout) for value in x) for x in (program.inputs, program.outputs)))

    def cycles(self, architecture: Architecture) -> int:
        """How long it takes at the bandwidth of the array's own port to DRAM."""
        return sum(-(-size // architecture.dram_bytes) for size in (self.written, self.read))


@dataclass(frozen=True)
class Performance:
    """What a run of all array parts costs: layers in the order of the programs, one program after the other.

    The cycles of layers are those of the array; `transfers` of values from and to the CPU come on top.
    """

    architecture: Architecture
    layers: tuple[LayerCost, ...]
    transfers: tuple[Transfer, ...] = ()
    energy: EnergyTable = field(default_factory=EnergyTable.load)

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        timelines: Sequence[Timeline],
        facts: Sequence[Sequence[LayerFacts]],
        energy: EnergyTable | None = None,
    ) -> Performance:
        """What the programs of these timelines, all for `architecture`, cost; `facts` are those of their layers."""
        table = energy if energy is not None else EnergyTable.load()
        layers: list[LayerCost] = []
        for index, (timeline, known) in enumerate(zip(timelines, facts, strict=True)):
            layers += _costs(index, timeline, known, table)
        transfers = (Transfer.of(index, timeline.program) for index, timeline in enumerate(timelines))
        return cls(architecture, tuple(layers), tuple(transfers), table)

    @property
    def total(self) -> LayerCost:
        """All layers together."""
        facts = LayerFacts("total", macs=sum(layer.facts.macs for layer in self.layers))
        return LayerCost(
            facts,
            len({layer.program for layer in self.layers}),
            sum(layer.cycles for layer in self.layers),
            _summed(layer.busy for layer in self.layers),
            sum(layer.dram_read for layer in self.layers),
            sum(layer.dram_written for layer in self.layers),
            sum(layer.scratchpad_bytes for layer in self.layers),
            _summed(layer.energy for layer in self.layers),
        )

    @property
    def transfer_cycles(self) -> int:
        """Cycles of all transfers, one after the other."""
        return sum(transfer.cycles(self.architecture) for transfer in self.transfers)

    @property
    def seconds(self) -> float:
        """The array's time of a run at the architecture's clock."""
        return self.total.cycles / (self.architecture.clock_mhz * 1e6)

    def utilization(self, layer: LayerCost) -> float:
        """Useful products for each cell and cycle."""
        cells = self.architecture.rows * self.architecture.columns
        return layer.facts.macs / (cells * layer.cycles) if layer.cycles else 0.0

    def array_utilization(self, layer: LayerCost) -> float:
        """Useful products for each cell and cycle in which the array is busy: what padding to whole tiles costs."""
        busy = layer.busy["array"] * self.architecture.rows * self.architecture.columns
        return layer.facts.macs / busy if busy else 0.0

    def intensity(self, layer: LayerCost) -> float:
        """Useful products for each byte of DRAM."""
        return layer.facts.macs / layer.dram_bytes if layer.dram_bytes else 0.0

    def attainable(self, layer: LayerCost) -> float:
        """The roof over the layer: products a cycle that the cells, or DRAM at its intensity, allow.

        DRAM is read and written at once, so the roof is that of the busier direction.
        """
        cells = float(self.architecture.rows * self.architecture.columns)
        busier = max(layer.dram_read, layer.dram_written)
        return min(cells, layer.facts.macs * self.architecture.dram_bytes / busier) if busier else cells

    def baseline(self, layer: LayerCost) -> dict[str, int]:
        """SCALE-Sim's compute cycles for both dataflows; empty for layers without products."""
        if layer.facts.gemm is None:
            return {}
        return {name: baseline_scalesim(layer.facts.gemm, self.architecture, name) for name in ("os", "ws")}

    def to_json(self) -> dict[str, Any]:
        """Plain data, for an artifact's report."""
        return {
            "architecture": str(self.architecture),
            "layers": [asdict(layer) for layer in self.layers],
            "transfers": [asdict(transfer) for transfer in self.transfers],
            "energy": self.energy.to_json(),
            "total": {
                "cycles": self.total.cycles,
                "transfer_cycles": self.transfer_cycles,
                "seconds": self.seconds,
                "macs": self.total.facts.macs,
                "utilization": self.utilization(self.total),
                "dram_bytes": self.total.dram_bytes,
                "scratchpad_bytes": self.total.scratchpad_bytes,
                "joules": self.total.joules,
            },
        }


def _costs(index: int, timeline: Timeline, facts: Sequence[LayerFacts], energy: EnergyTable) -> list[LayerCost]:
    """The cost of each layer of a program; one pass over its instructions."""
    architecture, count = timeline.program.architecture, len(facts)
    busy = [dict.fromkeys((unit.name.lower() for unit in Unit), 0) for _ in facts]
    traffic: list[dict[tuple[Memory, str], int]] = [{} for _ in facts]
    ends = [0] * count
    for instruction, done in zip(timeline.program.instructions, timeline.done.tolist(), strict=True):
        if instruction.unit is None:
            continue
        layer = min(instruction.layer, count - 1)
        busy[layer][instruction.unit.name.lower()] += instruction.issue_cycles(architecture)
        for key, size in instruction.traffic(architecture).items():
            traffic[layer][key] = traffic[layer].get(key, 0) + size
        ends[layer] = max(ends[layer], done)
    costs, before = [], 0
    for layer, known in enumerate(facts):
        end = max(before, ends[layer]) if layer < count - 1 else timeline.total
        read, written = (traffic[layer].get((Memory.DRAM, kind), 0) for kind in ("read", "write"))
        inside = sum(size for (memory, _), size in traffic[layer].items() if memory is not Memory.DRAM)
        joules = energy.joules(architecture, traffic[layer], busy[layer]["array"], busy[layer]["vector"])
        costs.append(LayerCost(known, index, end - before, busy[layer], read, written, inside, joules))
        before = end
    return costs


def _bytes(layout: Layout) -> int:
    return math.prod(map(len, layout.tables)) * ITEMS[layout.item].itemsize


def _summed(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total
