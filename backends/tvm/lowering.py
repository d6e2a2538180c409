"""Lowering for CPUs: what every machine's lowering does, and values with borders that convolutions read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import Node

from ...cpu import CpuTarget
from .graph_lowering import (
    Check,
    GraphLowering,
    HostCall,
    KernelCall,
    OpRule,
    Rule,
    dtype_name,
    unsupported_reason,
)
from .kernels.pointwise import FillFrame, pointwise_kernel
from .kernels.pointwise_program import Instruction, Stream
from .placement import halo_demand
from .views import View

__all__ = ["Check", "HostCall", "KernelCall", "Lowering", "OpRule", "Rule", "dtype_name", "unsupported_reason"]


@dataclass
class Lowering(GraphLowering):
    """The state of one walk, and what lowering rules call."""

    target: CpuTarget

    def __post_init__(self) -> None:
        super().__post_init__()
        self._haloed: dict[tuple[Node, tuple[int, ...], int, bool], View] = {}
        self._halo_demand = halo_demand(self.program)

    def elementwise(
        self,
        inputs: Sequence[View],
        outputs: Sequence[View],
        program: Sequence[Instruction],
        results: Sequence[int],
        note: str = "",
    ) -> None:
        read, written = ([Stream(view.dtype, view.strides) for view in views] for views in (inputs, outputs))
        kernel = pointwise_kernel(outputs[0].shape, read, written, program, results, self.target)
        self.call(kernel, *inputs, *outputs, note=note)

    def with_halo(self, node: Node, pads: Sequence[int], fill: int = 0, biased: bool = False) -> View:
        """A channels-last value with elements `fill` beyond its edges, as far as `pads` says.

        `pads` holds (before, after) for each spatial dim. `biased` asks for an int8 value held as uint8; `fill` is then
        what lies in memory.
        """
        view, pads = self.biased(node) if biased else self.view(node), tuple(pads)
        if not any(pads):
            return view if view.strides[-1] == 1 or view.shape[-1] == 1 else self.contiguous(view)
        wide = view.halo and all(have >= want for have, want in zip(view.halo, pads, strict=True))
        if wide and view.fill == fill:
            return view
        key = (node, pads, fill, biased)
        if key not in self._haloed:
            self._haloed[key] = self.halo_copy(view, pads, fill)
        return self._haloed[key]

    def halo_copy(self, view: View, pads: Sequence[int], fill: int = 0) -> View:
        """A copy of a channels-last view, dense but for a border of `fill` as wide as `pads`."""
        haloed = self._allocate_halo(view.shape, view.dtype, tuple(pads), fill, view.biased)
        self.copy(view, haloed, "copy: to channels-last with the border that the convolution reads")
        return haloed

    # placing values

    def _place(self, node: Node, shape: tuple[int, ...], dtype: str, strided: bool) -> View:
        if strided and node in self._halo_demand and not self._halo_demand[node].biased:
            return self._allocate_halo(shape, dtype, self._halo_demand[node].pads)
        if node in self._halo_demand and not (strided and node in self._slots and dtype != "int8"):
            return self.temporary(shape, dtype)
        return super()._place(node, shape, dtype, strided)

    def _place_biased(self, node: Node, shape: tuple[int, ...], strided: bool) -> View:
        demand = self._halo_demand.get(node)
        if strided and demand is not None:
            return self._allocate_halo(shape, "uint8", demand.pads, demand.fill, biased=True)
        return super()._place_biased(node, shape, strided)

    def _allocate_halo(
        self, shape: tuple[int, ...], dtype: str, pads: tuple[int, ...], fill: int = 0, biased: bool = False
    ) -> View:
        spatial = range(1, len(shape) - 1)
        padded = list(shape)
        for d in spatial:
            padded[d] += pads[2 * d - 2] + pads[2 * d - 1]
        whole = self.temporary(padded, dtype)
        offset = sum(pads[2 * d - 2] * whole.strides[d] for d in spatial)
        self.call(FillFrame(tuple(padded), pads, dtype, fill), whole, note="border")
        return View(whole.storage, offset, shape, whole.strides, tuple(pads), fill, biased)
