"""Random layers: what the compiler makes of them computes the same integers as the reference ops, in any order."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from fxpress.backends.systolic.architecture import Architecture
from fxpress.backends.systolic.compiler import CompiledProgram, lower
from fxpress.backends.systolic.compiler.array_stage import ArrayStage
from fxpress.backends.systolic.simulator.cycles import simulate_cycles
from fxpress.backends.systolic.simulator.races import check_order
from fxpress.program import Program
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_programs import Builder
from torch.fx import Node

aten = torch.ops.aten

MACHINES = [
    Architecture.parse(text)
    for text in (
        "rows=4,columns=4,activation_kib=8,weight_kib=8,accumulator_kib=4,parameter_kib=4,dram_bytes=4",
        "preset=edge",
        "rows=4,columns=8,dataflow=os,activation_kib=16,weight_kib=16,accumulator_kib=8,parameter_kib=4,dram_bytes=4,"
        "vector_lanes=4,activation_banks=4,accumulator_banks=1",
        "rows=8,columns=8,dataflow=ws,activation_kib=16,weight_kib=16,accumulator_kib=16,parameter_kib=4,dram_bytes=8,"
        "activation_banks=1,accumulator_banks=4",
    )
]
SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 17])
LARGER = st.sampled_from([1, 3, 8, 24, 37, 40])


def check(program: Program, machine: Architecture, *, on_array: bool = True) -> CompiledProgram:
    """Compile, run, compare bit for bit, look for races and deadlocks."""
    compiled = lower(program, machine)
    found = compiled.run_flat(*program.example_inputs)
    for one, wanted in zip(found, program.run_flat(*program.example_inputs), strict=True):
        assert torch.equal(one, wanted)
    arrays = [stage for stage in compiled.stages if isinstance(stage, ArrayStage)]
    assert arrays or not on_array
    for stage in arrays:
        check_order(stage.program)
        simulate_cycles(stage.program)
    return compiled


@st.composite
def images(draw: Any, b: Builder, last: bool, channels: int | None = None) -> Node:
    """An input of one or two images."""
    n, h, w = draw(st.integers(1, 2)), draw(SIZES), draw(SIZES)
    c = draw(SIZES) if channels is None else channels
    return b.input(*((n, h, w, c) if last else (n, c, h, w)))


def spatial(node: Node, last: bool) -> tuple[int, ...]:
    shape = tuple(node.meta["val"].shape)
    return shape[1:-1] if last else shape[2:]


@st.composite
def convolutions(
    draw: Any, b: Builder, x: Node, last: bool, *, oc: int | None = None, groups: int = 1, as_float: bool = False
) -> Node:
    """A convolution of `x` that leaves something of it."""
    sizes = spatial(x, last)
    kernel = [min(draw(st.sampled_from([1, 1, 2, 3, 3, 5])), size) for size in sizes]
    dilation = [draw(st.integers(1, 2)) if 2 * k - 1 <= size else 1 for k, size in zip(kernel, sizes, strict=True)]
    stride = [draw(st.sampled_from([1, 1, 2, 3])) for _ in sizes]
    padding = [draw(st.integers(0, 2)) for _ in range(2 * len(sizes))]
    oc = groups * draw(SIZES) if oc is None else oc
    return b.conv(
        x, oc, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, channels_last=last,
        as_float=as_float,
    )  # fmt: skip


machines, seeds, flags = st.sampled_from(MACHINES), st.integers(0, 1 << 30), st.booleans()


@given(st.data(), machines, seeds, flags, flags, flags)
def test_convolution(
    data: st.DataObject, machine: Architecture, seed: int, last: bool, table: bool, as_float: bool
) -> None:
    b = Builder(seed)
    y = data.draw(convolutions(b, data.draw(images(b, last)), last, as_float=as_float))
    check(b.program(b.lookup(y) if table and not as_float else y), machine)


@given(st.data(), machines, seeds, flags)
def test_grouped_convolution(data: st.DataObject, machine: Architecture, seed: int, last: bool) -> None:
    b = Builder(seed)
    groups, each = data.draw(st.sampled_from([2, 3, 4, 5, 8, 16])), data.draw(st.integers(1, 3))
    oc = groups * data.draw(st.integers(1, 3))
    x = data.draw(images(b, last, groups * each))
    check(b.program(data.draw(convolutions(b, x, last, oc=oc, groups=groups))), machine)


@given(st.data(), machines, seeds, flags)
def test_convolution_in_one_dimension(data: st.DataObject, machine: Architecture, seed: int, last: bool) -> None:
    b = Builder(seed)
    n, length, channels = data.draw(st.integers(1, 2)), data.draw(SIZES), data.draw(SIZES)
    x = b.input(*((n, length, channels) if last else (n, channels, length)))
    check(b.program(data.draw(convolutions(b, x, last))), machine)


@given(st.data(), machines, seeds, flags)
def test_linear(data: st.DataObject, machine: Architecture, seed: int, as_float: bool) -> None:
    b = Builder(seed)
    shape = data.draw(st.lists(SIZES, min_size=1, max_size=3))
    x = b.input(*shape, data.draw(LARGER))
    y = b.linear(x, data.draw(LARGER))
    z = b.linear(y, y.meta["val"].shape[-1], residual=None if as_float else y, as_float=as_float)
    check(b.program(y, z), machine)


@given(st.data(), machines, seeds, flags, flags)
def test_pool(data: st.DataObject, machine: Architecture, seed: int, last: bool, average: bool) -> None:
    b = Builder(seed)
    x = data.draw(images(b, last))
    kernel = [min(data.draw(st.integers(1, 3)), size) for size in spatial(x, last)]
    stride = [data.draw(st.integers(1, 3)) for _ in kernel]
    padding = [data.draw(st.integers(0, k // 2)) for k in kernel]
    pool = b.avg_pool if average else b.max_pool
    check(b.program(pool(b.requantize(x), kernel, stride, padding, last=last)), machine)


@given(st.data(), machines, seeds, flags, flags)
def test_residual_block(data: st.DataObject, machine: Architecture, seed: int, last: bool, flip: bool) -> None:
    b = Builder(seed)
    x = data.draw(convolutions(b, data.draw(images(b, last)), last))
    oc = x.meta["val"].shape[-1 if last else 1]
    y = b.conv(x, oc, [3, 3], padding=[1, 1, 1, 1], channels_last=last)
    y = b.conv(y, oc, [1, 1], residual=x, channels_last=last)
    y = b.lookup(b.add(y, x))
    z = b.call(aten.permute.default, y, [0, 3, 1, 2]) if flip else y
    z = b.linear(b.call(aten.reshape.default, z, [z.meta["val"].shape[0], -1]), data.draw(SIZES))
    check(b.program(y, z), machine)


@given(st.data(), machines, seeds, flags, flags)
def test_product(data: st.DataObject, machine: Architecture, seed: int, turned: bool, as_float: bool) -> None:
    b = Builder(seed)
    batch, (m, k, n) = data.draw(st.lists(st.integers(1, 3), max_size=2)), (data.draw(SIZES) for _ in range(3))
    x = b.input(*batch, m, k)
    y = b.input(*batch, *((n, k) if turned else (k, n)))
    if turned:
        y = b.call(aten.transpose.int, y, -2, -1)
    check(b.program(b.matmul(x, y, as_float=as_float)), machine)


@given(st.data(), machines, seeds, flags)
def test_concatenation(data: st.DataObject, machine: Architecture, seed: int, last: bool) -> None:
    b = Builder(seed)
    channels = 3 if last else 1
    dim = data.draw(st.integers(0, 3))
    x = data.draw(images(b, last))
    parts = [
        b.conv(x, data.draw(SIZES) if dim == channels else 6, [1, 1], channels_last=last)
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    parts.append(x if dim == channels else parts[0])
    y = b.call(aten.cat.default, parts, dim)
    z = b.max_pool(y, [1, 1], [1, 1], [0, 0], last=last)
    pieces = b.call(aten.split.Tensor, z, 3, channels)
    first = b.call(operator.getitem, pieces, 0)
    check(b.program(y, z, b.requantize(first), data.draw(convolutions(b, z, last))), machine)


@given(st.data(), machines, seeds)
def test_sum_with_broadcast(data: st.DataObject, machine: Architecture, seed: int) -> None:
    b = Builder(seed)
    shape = [data.draw(st.integers(1, 3)), data.draw(SIZES), data.draw(SIZES), data.draw(SIZES)]
    other = [size if data.draw(st.booleans()) else 1 for size in shape]
    y = b.requantize(b.input(*other[data.draw(st.integers(0, 3)) :]))
    check(b.program(b.add(b.requantize(b.input(*shape)), y)), machine)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.data(), machines, seeds, flags)
def test_convolution_many(data: st.DataObject, machine: Architecture, seed: int, last: bool) -> None:
    b = Builder(seed)
    x = data.draw(convolutions(b, data.draw(images(b, last)), last))
    check(b.program(x, data.draw(convolutions(b, x, last))), machine)


def test_concatenation_of_different_layouts() -> None:
    b = Builder()
    one = b.conv(b.input(1, 4, 5, 3), 6, [1, 1])
    other = b.conv(b.input(1, 3, 5, 6), 4, [1, 1], channels_last=False)
    compiled = check(b.program(b.call(aten.cat.default, [one, other], 0)), MACHINES[0])
    assert list(compiled.reasons) == ["cat"]


def test_windows_that_instructions_cannot_describe() -> None:
    b = Builder()
    x = b.conv(b.input(1, 300, 1, 4), 4, [1, 1])
    compiled = check(b.program(b.conv(x, 4, [300, 1])), MACHINES[1])
    assert compiled.reasons == {
        "quantized_conv_1": "its windows and their padding must be at most 255 elements wide, "
        "not [300, 1] and [0, 0, 0, 0]"
    }


def test_heads_of_attention() -> None:
    """Projections, heads, both products of attention and the output projection: views between them cost nothing."""
    machine, b = MACHINES[1], Builder(1)
    x = b.input(2, 9, 32)

    def heads(y: Node) -> Node:
        return b.call(aten.permute.default, b.call(aten.reshape.default, y, [2, 9, 2, 16]), [0, 2, 1, 3])

    query, key, value = (heads(b.linear(x, 32)) for _ in range(3))
    scores = b.matmul(query, b.call(aten.transpose.int, key, -2, -1))
    mixed = b.call(aten.permute.default, b.matmul(scores, value), [0, 2, 1, 3])
    out = b.linear(b.call(aten.reshape.default, mixed, [2, 9, 32]), 32)
    compiled = check(b.program(out), machine)
    assert not compiled.reasons
    assert [layer.kind for layer in compiled.stages[0].layers] == [
        *["convolution"] * 3,
        *["product"] * 2,
        "convolution",
    ]  # type: ignore[union-attr]
