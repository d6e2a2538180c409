"""Values that stay on the chip, and windows at the edge of an image: less work, the same integers."""

from __future__ import annotations

import numpy as np
import pytest
from fxpress.backends.systolic.architecture import Architecture, Memory
from fxpress.backends.systolic.compiler import ArrayStage, CompiledProgram, retention
from fxpress.backends.systolic.compiler.borders import RowGroup, TapRows, row_groups, tap_rows
from fxpress.backends.systolic.compiler.layers import Window
from fxpress.backends.systolic.compiler.retention import Resident
from fxpress.backends.systolic.simulator.cycles import simulate_cycles
from fxpress.program import Program
from hypothesis import given
from hypothesis import strategies as st
from quantized_programs import Builder
from test_systolic_layers import check

MACHINE = Architecture.parse("preset=edge")


def chain(seed: int = 0) -> Program:
    """Convolutions of points and windows in turn; the second result is also a residual."""
    b = Builder(seed)
    x = b.conv(b.input(1, 12, 12, 8), 16, [1, 1])
    y = b.conv(x, 16, [3, 3], padding=[1, 1, 1, 1], groups=16)
    z = b.conv(y, 24, [1, 1])
    w = b.conv(z, 24, [3, 3], padding=[0, 1, 0, 1], stride=[2, 2])
    return b.program(b.conv(b.conv(w, 24, [1, 1], residual=w), 8, [1, 1], stride=[2, 2]))


def dram_bytes(compiled: CompiledProgram) -> int:
    (stage,) = compiled.stages
    assert isinstance(stage, ArrayStage)
    moved = simulate_cycles(stage.program).dram_bytes()
    return sum(moved[Memory.ACTIVATIONS])


def test_values_stay_on_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    program = chain()
    kept = check(program, MACHINE)
    (stage,) = kept.stages
    assert isinstance(stage, ArrayStage)
    assert sum("stays on chip" in layer.tiling for layer in stage.layers) >= 3
    assert any("source on chip, result stays" in layer.tiling for layer in stage.layers)
    monkeypatch.setattr(retention, "between", lambda maker, reader: None)
    apart = check(program, MACHINE)
    assert dram_bytes(kept) < 0.7 * dram_bytes(apart)


def test_what_others_read_is_stored_too() -> None:
    b = Builder()
    y = b.conv(b.input(1, 6, 6, 64), 8, [1, 1])
    z = b.conv(y, 8, [3, 3], padding=[1, 1, 1, 1])
    compiled = check(b.program(y, b.conv(z, 8, [1, 1]), b.add(y, z)), MACHINE)
    (stage,) = compiled.stages
    assert isinstance(stage, ArrayStage)
    assert "result stays on chip" in stage.layers[0].tiling


def test_a_batch_goes_through_memory() -> None:
    b = Builder()
    y = b.conv(b.input(2, 6, 6, 8), 8, [1, 1])
    (stage,) = check(b.program(b.conv(y, 8, [3, 3])), MACHINE).stages
    assert isinstance(stage, ArrayStage)
    assert not any("on chip" in layer.tiling for layer in stage.layers)


@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 3),
    st.tuples(*[st.integers(0, 2)] * 4), st.integers(0, 20),
)  # fmt: skip
def test_resident(rows: int, columns: int, words: int, padding: tuple[int, int, int, int], base: int) -> None:
    value = Resident(rows, columns, words, padding, 0, base)
    filled = np.zeros(base + value.size, int)
    for address, count in value.border():
        filled[address : address + count] += 1
    for first, count in value.segments(0, rows * columns):
        start = value.pixel(first)
        filled[start : start + count * words] += 1
    assert (filled[base:] == 1).all()
    assert not filled[:base].any()
    assert [value.pixel(i) for i in range(rows * columns)] == [
        base + ((row + padding[0]) * (columns + padding[2] + padding[3]) + column + padding[2]) * words
        for row in range(rows)
        for column in range(columns)
    ]


def test_tap_rows() -> None:
    window = Window((3, 3), padding=(1, 1, 1, 1))
    assert tap_rows(window, 0, 4, 4) == [TapRows(1, 2, 0, 4), TapRows(0, 1, 1, 4), TapRows(2, 3, 0, 3)]
    assert tap_rows(window, 2, 3, 9) == [TapRows(0, 3, 0, 3)]
    assert tap_rows(Window((3, 3), padding=(3, 3, 0, 0)), 0, 7, 3) == [TapRows(0, 3, 0, 7)]  # no row reads all rows
    runs = tap_rows(window, 0, 4, 4)
    assert row_groups(runs, 4, 3) == [RowGroup(0, 1, (0,)), RowGroup(1, 3, ()), RowGroup(3, 4, (2,))]


@given(st.integers(0, 4), st.integers(1, 6), st.integers(1, 3), st.integers(1, 2), st.integers(1, 8))
def test_tap_rows_leave_nothing_out(top: int, rows: int, stride: int, dilation: int, height: int) -> None:
    window = Window((3, 1), (stride, 1), (dilation, 1), (top, 0, 0, 0))
    runs = tap_rows(window, 1, rows, height)
    read = {(tap, row) for run in runs for tap in range(run.first, run.last) for row in range(run.low, run.high)}
    for tap in range(3):
        for row in range(rows):
            inside = 0 <= (1 + row) * stride - top + tap * dilation < height
            assert (tap, row) in read or not inside


def test_depthwise_multiplies_once_for_each_channel() -> None:
    """C products a cycle, and a little more where window rows in the padding are left out."""
    machine, b = Architecture(), Builder()
    y = b.conv(b.input(1, 28, 28, 64), 64, [3, 3], padding=[1, 1, 1, 1], groups=64)
    (stage,) = check(b.program(y), machine).stages
    assert isinstance(stage, ArrayStage)
    (layer,) = stage.layers
    assert layer.macs / layer.array_cycles >= machine.columns
