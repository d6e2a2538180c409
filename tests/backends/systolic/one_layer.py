"""A program of two layers, written by hand: a product of 8 pixels with 4x4 weights, then a maximum over pairs."""

from __future__ import annotations

from fxpress.backends.systolic.architecture import Architecture, Memory, Unit
from fxpress.backends.systolic.instructions import Halt, Load, Multiply, Reduce, Store, Vector, units, with_banks
from fxpress.backends.systolic.layout import Layout
from fxpress.backends.systolic.program import Layer, SystolicProgram, Value
from fxpress.backends.systolic.report.performance import LayerFacts

ARCHITECTURE = Architecture(
    rows=4, columns=4, activation_kib=1, weight_kib=1, accumulator_kib=1, parameter_kib=1, dram_bytes=4, dram_latency=9
)
FACTS = (
    LayerFacts("product", "fxpress.quantized_linear", "model.py:3 in forward (fc)", "8x4 -> 8x4", 128, (1, 8, 4, 4)),
    LayerFacts("maximum", "fxpress.quantized_max_pool", "model.py:4 in forward (pool)", "8x4 -> 4x4"),
)


def one_layer() -> SystolicProgram:
    """The program, with the tokens that order it."""
    instructions = [
        Load(memory=Memory.ACTIVATIONS, dram=0, destination=0, count_x=8, stride_x=1),
        Load(memory=Memory.WEIGHTS, dram=8, destination=0, count_x=4, stride_x=1, signals=units(Unit.ARRAY)),
        Multiply(
            blocks=1, width=8, stride_pixel=1, pixels=8, outputs=1, stride_output=8,
            waits=units(Unit.LOAD), signals=units(Unit.STORE, Unit.VECTOR),
        ),
        Store(
            memory=Memory.ACCUMULATORS, source=0, dram=16, count_x=8, stride_x=4, waits=units(Unit.ARRAY),
        ),
        Vector(
            source=Memory.ACTIVATIONS, input=0, output=64, pixels=4, width=4, blocks=1, kx=2, stride_kx=1,
            stride_pixel=2, output_stride_pixel=1, reduce=Reduce.MAX, layer=1, waits=units(Unit.ARRAY),
            signals=units(Unit.STORE),
        ),
        Store(
            memory=Memory.ACTIVATIONS, source=64, dram=48, count_x=4, stride_x=1, layer=1, waits=units(Unit.VECTOR),
        ),
        Halt(layer=1),
    ]  # fmt: skip
    rows = tuple(tuple(4 * i for i in range(n)) for n in (8, 4))
    lanes = (0, 1, 2, 3)
    return SystolicProgram.of(
        [with_banks(instruction, ARCHITECTURE) for instruction in instructions],
        architecture=ARCHITECTURE,
        layers=tuple(Layer(facts.name, facts.source) for facts in FACTS),
        dram_words=52,
        inputs=(
            Value("x", Layout((8, 4), "int8", 0, (rows[0], lanes))),
            Value("w", Layout((4, 4), "int8", 32, (rows[1], lanes))),
        ),
        outputs=(
            Value("sums", Layout((8, 4), "int32", 64, (tuple(16 * i for i in range(8)), (0, 4, 8, 12)))),
            Value("y", Layout((4, 4), "int8", 192, (rows[1], lanes))),
        ),
    )
