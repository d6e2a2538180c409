"""Lowering for CUDA: what every machine's lowering does, with the GPU's kernel of elementwise chains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...errors import Unsupported
from ...printer import op_name
from ..tvm.graph_lowering import GraphLowering
from ..tvm.kernels.base import Kernel
from ..tvm.kernels.pointwise_program import Instruction, Stream
from ..tvm.views import ITEM_SIZES, View
from .kernels.base import ACCESS
from .kernels.pointwise import Pointwise
from .target import CudaTarget

_MOST_ELEMENTS = 1 << 31  # kernels count elements in 32 bits


@dataclass
class CudaLowering(GraphLowering):
    """The state of one walk, and what lowering rules call."""

    way_out: ClassVar[str] = "compile the model for the CPU"
    target: CudaTarget

    def elementwise(
        self,
        inputs: Sequence[View],
        outputs: Sequence[View],
        program: Sequence[Instruction],
        results: Sequence[int],
        note: str = "",
    ) -> None:
        read, written = ([Stream(view.dtype, view.strides) for view in views] for views in (inputs, outputs))
        aligned = [aligned_bytes(view) for view in (*inputs, *outputs)]
        kernel = Pointwise.choose(outputs[0].shape, read, written, program, results, aligned)
        self.call(kernel, *inputs, *outputs, note=note)

    def call(self, kernel: Kernel, *views: View, note: str = "") -> None:
        for view in views:
            if view.storage.elements >= _MOST_ELEMENTS:
                node = self._current
                place = f" of {op_name(node.target)} ({node.meta.get('source', '?')})" if node is not None else ""
                raise Unsupported(
                    f"a tensor{place} must have less than {_MOST_ELEMENTS} elements, not {view.storage.elements}; "
                    "use a smaller batch"
                )
        super().call(kernel, *views, note=note)


def aligned_bytes(view: View) -> int:
    """The most bytes, up to an access, that divide the address of the view's first element.

    Storages begin at multiples of 64 bytes, and so do inputs: the runtime copies those that do not.
    """
    return math.gcd(view.offset * ITEM_SIZES[view.dtype], ACCESS)


def aligned_rows(view: View, dims: int) -> int:
    """The most elements, up to an access, that divide the addresses of all rows: all but the last `dims` dimensions."""
    item = ITEM_SIZES[view.dtype]
    strides = [s for size, s in zip(view.shape[:-dims], view.strides[:-dims], strict=True) if size > 1]
    return math.gcd(view.offset, ACCESS // item, *strides)
