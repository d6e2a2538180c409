"""Tilings: as good as what others count, and an error that helps where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fxpress.backends.systolic.architecture import Architecture
from fxpress.backends.systolic.compiler import lower
from fxpress.backends.systolic.compiler.array_stage import ArrayStage
from fxpress.backends.systolic.compiler.layers import Window
from fxpress.backends.systolic.compiler.shapes import Shape
from fxpress.backends.systolic.compiler.tiling import Tiling, sizes, tile
from fxpress.backends.systolic.simulator.cycles import simulate_cycles
from fxpress.errors import Unsupported
from quantized_programs import Builder


def scale_sim(rows: int, columns: int, pixels: int, filters: int, depth: int, dataflow: str) -> int:
    """Compute cycles by the formulas of SCALE-Sim 3, whose folds never overlap."""
    if dataflow == "os":
        folds, each = -(-pixels // rows) * -(-filters // columns), depth + rows + columns - 2
    else:
        folds, each = -(-depth // rows) * -(-filters // columns), 2 * rows + columns + pixels - 2
    return folds * each - 1


PRODUCTS = [(197, 384, 384), (1, 1000, 512), (256, 256, 256)]  # pixels, filters, depth
CONVOLUTIONS = [(64, 56), (256, 14)]  # channels, rows and columns


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("dataflow", ["os", "ws", "both"])
def test_no_more_cycles_than_scale_sim(size: int, dataflow: str) -> None:
    machine = Architecture(rows=size, columns=size, dataflow=dataflow)
    b = Builder()
    results, limits = [], []
    for pixels, filters, depth in PRODUCTS:
        results.append(b.linear(b.input(pixels, depth), filters))
        limits.append((pixels, filters, depth))
    for channels, side in CONVOLUTIONS:
        x = b.input(1, side, side, channels)
        results.append(b.conv(x, channels, [3, 3], padding=[1, 1, 1, 1]))
        limits.append((side * side, channels, 9 * channels))
    stage = lower(b.program(*results), machine).stages[0]
    assert isinstance(stage, ArrayStage)
    for layer, limit in zip(stage.layers, limits, strict=True):
        flows = ("os", "ws") if dataflow == "both" else (dataflow,)
        assert layer.array_cycles <= min(scale_sim(size, size, *limit, flow) for flow in flows)
    total = simulate_cycles(stage.program).total
    assert total >= sum(layer.macs for layer in stage.layers) / size**2


def test_a_convolution_keeps_the_array_busy() -> None:
    b = Builder()
    x = b.input(1, 28, 28, 128)
    stage = lower(b.program(b.conv(x, 128, [3, 3], padding=[1, 1, 1, 1])), Architecture()).stages[0]
    assert isinstance(stage, ArrayStage)
    cycles = simulate_cycles(stage.program).total
    assert stage.layers[0].macs / (256 * cycles) > 0.95
    assert abs(stage.layers[0].model_cycles - cycles) < 0.05 * cycles


def test_sizes_cut_into_equal_parts() -> None:
    assert sizes(10).tolist() == [1, 2, 3, 4, 5, 10]
    assert sizes(1).tolist() == [1]


def test_what_does_not_fit_says_what_would() -> None:
    window = Window((5, 5), (1, 1), (1, 1))
    shape = Shape(outer=1, rows=8, columns=8, words=4, blocks=4, window=window, depth=4, array=True)
    small = Architecture(rows=4, columns=4, weight_kib=1, activation_kib=1, accumulator_kib=1, parameter_kib=1)
    assert isinstance(tile(shape, small), Tiling)
    large = Window((20, 20), (1, 1), (1, 1))
    found = tile(Shape(outer=1, rows=8, columns=8, words=4, blocks=4, window=large, depth=4, array=True), small)
    assert found == "its smallest tile needs activation_kib=2 (it is 1) and weight_kib=7 (it is 1)"
    assert isinstance(tile(replace(shape, window=large), replace(small, activation_kib=2, weight_kib=7)), Tiling)
    assert tile(replace(shape, window=large), replace(small, activation_kib=2, weight_kib=6)) == (
        "its smallest tile needs weight_kib=7 (it is 6)"
    )


def test_a_layer_that_does_not_fit() -> None:
    b = Builder()
    x = b.input(1, 40, 40, 8)
    program = b.program(b.conv(x, 8, [33, 33]))
    small = Architecture(rows=4, columns=4, weight_kib=1, activation_kib=1, accumulator_kib=1, parameter_kib=1)
    with pytest.raises(Unsupported, match=r"^layer %quantized_conv does not fit: its smallest tile needs "):
        lower(program, small)
