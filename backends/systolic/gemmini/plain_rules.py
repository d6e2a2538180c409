"""Steps in plain C, for the processor beside the array: pools, lone sums and requantisations, moves of elements."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.fx import Node

from ....arguments import arguments
from .array_rules import HOST, global_average
from .c_text import literal
from .refusal import Refused, check_arithmetic, check_channels_last
from .steps import Step, shape
from .writer import Writer

EXPAND = "expand the operand first"


def sum_(step: Step, cx: Writer) -> None:
    """a + b where Gemmini's sum would round otherwise."""
    v = arguments(step.root)
    check_arithmetic(v)
    if shape(v["a"]) != shape(v["b"]):
        raise Refused(f"its operands have the shapes {shape(v['a'])} and {shape(v['b'])}", EXPAND)
    a, b = (_scaled(v[x], v[f"{x}_scale"] / v["y_scale"], cx) for x in ("a", "b"))
    _elementwise(step, cx, f"{a} + {b}", v)


def requantize(step: Step, cx: Writer) -> None:
    """x with another scale."""
    v = arguments(step.root)
    check_arithmetic(v)
    _elementwise(step, cx, _scaled(v["x"], v["x_scale"] / v["y_scale"], cx), v)


def dequantize(step: Step, cx: Writer) -> None:
    """x * scale as float32."""
    v = arguments(step.root)
    check_arithmetic(v)
    cx.line(f"for (int i = 0; i < {prod(shape(step.node))}; i++) {cx.place(step.node)}[i] = "
            f"{_scaled(v['x'], v['scale'], cx)};")  # fmt: skip


def _scaled(x: Node, factor: float, cx: Writer) -> str:
    cx.use("product")
    return f"product({cx.place(x)}[i], {literal(factor)})"


def _elementwise(step: Step, cx: Writer, value: str, v: dict[str, Any]) -> None:
    cx.use("saturate")
    cx.line(f"for (int i = 0; i < {prod(shape(step.node))}; i++)")
    cx.line(f"{cx.place(step.node)}[i] = saturate({value}, {v['low']}, {v['high']});", 2)


def average_pool(step: Step, cx: Writer) -> None:
    """The mean of windows: on the array when a window is the whole image, else summed here."""
    v = arguments(step.root)
    check_arithmetic(v)
    check_channels_last(v)
    sizes = shape(v["x"])[1:-1]
    if tuple(v["kernel"]) == sizes and set(v["padding"]) == {0} and set(shape(step.node)[1:-1]) == {1}:
        return global_average(step, cx)
    cx.use("product", "saturate")
    factor = literal(v["x_scale"] / (v["y_scale"] * prod(v["kernel"])))
    result = f"saturate(product(sum, {factor}), {v['low']}, {v['high']})"
    _windows(step, cx, v, "acc_t sum = 0;", "sum += {x};", result)
    return None


def max_pool(step: Step, cx: Writer) -> None:
    """The largest of windows, where no convolution could do it."""
    v = arguments(step.root)
    check_channels_last(v)
    _windows(step, cx, v, "elem_t most = -128;", "if ({x} > most) most = {x};", "most")


def _windows(step: Step, cx: Writer, v: dict[str, Any], start: str, take: str, result: str) -> None:
    """Loops over pixels, channels and windows; padding is left out. One-dimensional images have one column."""
    n, *sizes, channels = shape(v["x"])
    height, width = _pair(sizes, 1)
    rows, columns = _pair(shape(step.node)[1:-1], 1)
    kernel, stride, padding = _pair(v["kernel"], 1), _pair(v["stride"] or v["kernel"], 1), _pair(v["padding"], 0)
    dilation = _pair(v.get("dilation") or [1, 1], 1)
    x, y = cx.place(v["x"]), cx.place(step.node)
    cx.line(f"for (int n = 0; n < {n}; n++) for (int row = 0; row < {rows}; row++)")
    cx.line(f"for (int column = 0; column < {columns}; column++) for (int c = 0; c < {channels}; c++) {{", 2)
    cx.line(start, 3)
    cx.line(f"for (int i = 0; i < {kernel[0]}; i++) for (int j = 0; j < {kernel[1]}; j++) {{", 3)
    cx.line(f"int h = row * {stride[0]} + i * {dilation[0]} - {padding[0]};", 4)
    cx.line(f"int w = column * {stride[1]} + j * {dilation[1]} - {padding[1]};", 4)
    cx.line(f"if (h < 0 || h >= {height} || w < 0 || w >= {width}) continue;", 4)
    cx.line(take.format(x=f"{x}[((n * {height} + h) * {width} + w) * {channels} + c]"), 4)
    cx.line("}", 3)
    cx.line(f"{y}[((n * {rows} + row) * {columns} + column) * {channels} + c] = {result};", 3)
    cx.line("}", 2)


def _pair(sizes: Sequence[int], filler: int) -> tuple[int, int]:
    return (sizes[0], sizes[1]) if len(sizes) == 2 else (sizes[0], filler)


def view(step: Step, cx: Writer) -> None:
    """The elements of the operand in another order, or some of them."""
    (x,) = step.root.all_input_nodes
    moved = step.root.target(torch.empty(shape(x), device="meta"), *step.root.args[1:], **step.root.kwargs)
    dense = torch.empty(shape(step.node), device="meta").stride()
    _copy(cx, shape(step.node), (cx.place(step.node), 0, dense), (cx.place(x), moved.storage_offset(), moved.stride()))


def concatenate(step: Step, cx: Writer) -> None:
    """Operands one after the other along a dim; their scale is one already."""
    v = arguments(step.root)
    dense = torch.empty(shape(step.node), device="meta").stride()
    dim = v["dim"] % len(shape(step.node))
    offset = 0
    for x in v["tensors"]:
        strides = torch.empty(shape(x), device="meta").stride()
        _copy(cx, shape(x), (cx.place(step.node), offset * dense[dim], dense), (cx.place(x), 0, strides))
        offset += shape(x)[dim]


def copy(cx: Writer, x: str, y: str, count: int) -> None:
    """Bytes of a value that is a result twice, or an input, too."""
    cx.line(f"for (int i = 0; i < {count}; i++) {y}[i] = {x}[i];")


Place = tuple[str, int, Sequence[int]]


def _copy(cx: Writer, sizes: Sequence[int], to: Place, source: Place) -> None:
    """Loops that move every element; an address is a place, an offset and a stride for each dim."""
    dims = [dim for dim, size in enumerate(sizes) if size != 1]
    for depth, dim in enumerate(dims, start=1):
        cx.line(f"for (int i{dim} = 0; i{dim} < {sizes[dim]}; i{dim}++)", depth)
    cx.line(f"{to[0]}[{_index(to, dims)}] = {source[0]}[{_index(source, dims)}];", len(dims) + 1)


def _index(place: Place, dims: Sequence[int]) -> str:
    _, offset, strides = place
    terms = [f"i{dim}" if strides[dim] == 1 else f"i{dim} * {strides[dim]}" for dim in dims if strides[dim]]
    return " + ".join([*([str(offset)] if offset or not terms else []), *terms])


def unsupported(step: Step, cx: Writer) -> None:
    """Any other op."""
    del cx
    if step.node.meta["val"].dtype != torch.int8 or any(
        x.meta["val"].dtype not in (torch.int8, torch.int32) for x in step.operands
    ):
        raise Refused("it computes with floats", "keep it out of the model, and compute it before or after the array")
    raise Refused("Gemmini has no such op", HOST)
