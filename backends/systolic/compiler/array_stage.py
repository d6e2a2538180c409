"""From the nodes that the array runs to a program for it, with what a report says about each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import Node

from ....program import Program
from ..architecture import Architecture
from ..instructions import Halt, Multiply
from ..layout import Layout
from ..program import Layer as SourceLayer
from ..program import Segment, SystolicProgram, Value
from .allocation import allocate, lifetimes
from .chip import Chip
from .emission import emit
from .layers import Convolution, Layer
from .packing import pack
from .retention import Plan, plan
from .scales import scale_of
from .selection import select
from .selector import Selection
from .tokens import ordered
from .views import View


@dataclass(frozen=True)
class LayerReport:
    """A layer of an array program: instructions with `layer` = its index belong to it.

    `macs` are useful multiplications, `gemm` the repeats, m, n and k of its matrix products, `array_cycles` those in
    which the array is given work, `model_cycles` what the tiling search expected for the whole layer on its own.
    """

    name: str
    op: str
    source: str
    kind: str
    shape: str
    macs: int
    gemm: tuple[int, int, int, int] | None
    array_cycles: int
    model_cycles: int
    tiling: str


@dataclass(frozen=True, eq=False)
class ArrayStage:
    """A program for the array; `inputs` and `outputs` name the values that cross, as its own values do."""

    program: SystolicProgram
    layers: tuple[LayerReport, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def array_stage(
    program: Program,
    architecture: Architecture,
    inputs: Sequence[Node],
    nodes: Sequence[Node],
    results: Sequence[Node],
) -> ArrayStage:
    """Compile `nodes` for the array. Raises Refused for a node it cannot run, Unsupported for a layer too large."""
    selection = select(program, architecture, inputs, nodes, results)
    layers = selection.layers
    needed = lifetimes(
        layers, [selection.values[n].buffer for n in inputs], [selection.values[n].buffer for n in results]
    )
    chip = Chip(architecture, allocate(needed))
    packed = [pack(layer, architecture.columns) if isinstance(layer, Convolution) else None for layer in layers]
    plans = plan(layers, packed, architecture, {selection.values[n].buffer for n in results})
    for index, layer in enumerate(layers):
        emit(chip, index, layer, packed[index], plans[index])
    instructions = [*ordered(chip.instructions, architecture, chip.image.start), Halt()]
    image = chip.image
    compiled = SystolicProgram.of(
        instructions,
        architecture=architecture,
        layers=tuple(SourceLayer(layer.name, layer.where) for layer in layers),
        dram_words=max(1, image.start + image.words),
        constants=(Segment(image.start * architecture.columns, b"".join(image.pieces)),),
        inputs=tuple(_value(selection, node, architecture) for node in inputs),
        outputs=tuple(_value(selection, node, architecture) for node in results),
    )
    cycles = [0] * len(layers)
    for instruction in chip.instructions:
        if isinstance(instruction, Multiply):
            cycles[instruction.layer] += instruction.issue_cycles(architecture)
    reports = tuple(_report(*each) for each in zip(layers, plans, cycles, strict=True))
    return ArrayStage(compiled, reports, tuple(n.name for n in inputs), tuple(n.name for n in results))


def _value(selection: Selection, node: Node, architecture: Architecture) -> Value:
    view = selection.values[node]
    item = "int32" if node in selection.sums else "int8"
    address = view.buffer.address * architecture.columns + view.offset
    shape = tuple(node.meta["val"].shape)
    scale, zero = (1.0, 0) if node in selection.sums else scale_of(node)
    return Value(node.name, Layout(shape, item, address, _tables(view), selection.windows.get(node)), scale, zero)


def _tables(view: View) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(table.tolist()) for table in view.tables)


def _report(layer: Layer, found: Plan, cycles: int) -> LayerReport:
    kind = type(layer).__name__.lower()
    channels = f"{layer.source.channels} -> {layer.output.channels}"
    shape = f"{'x'.join(str(axis.count) for axis in layer.output.axes)} pixels, channels {channels}"
    text = str(found.tiling)
    text += ", source on chip" if found.source is not None else ""
    text += ", result stays on chip" if found.output is not None else ""
    return LayerReport(
        layer.name, layer.op, layer.where, kind, shape, layer.macs, layer.gemm, cycles, found.tiling.cycles, text
    )
