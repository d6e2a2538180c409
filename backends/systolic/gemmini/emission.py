"""From a quantised Program to C source that calls Gemmini's library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.fx import Node

from ....errors import InvalidInput
from ....ops import fxpress
from ....program import Program
from . import array_rules, plain_rules
from .c_text import comment
from .memory import ALIGNMENT, Memory
from .parameters import Parameters
from .refusal import Refused, refuse_all
from .self_check import self_check
from .signature import Argument, arguments_of, header
from .steps import VIEWS, Step, plan_steps, shape
from .writer import HELPERS, Writer

aten = torch.ops.aten

Rule = Callable[[Step, Writer], None]

RULES: dict[Any, Rule] = {
    fxpress.quantized_conv.default: array_rules.convolution,
    fxpress.quantized_linear.default: array_rules.linear,
    fxpress.quantized_conv_float.default: array_rules.linear_float,
    fxpress.quantized_linear_float.default: array_rules.linear_float,
    fxpress.quantized_matmul.default: array_rules.product,
    fxpress.quantized_matmul_float.default: array_rules.product_float,
    fxpress.quantized_avg_pool.default: plain_rules.average_pool,
    fxpress.quantized_max_pool.default: plain_rules.max_pool,
    fxpress.quantized_add.default: plain_rules.sum_,
    fxpress.requantize.default: plain_rules.requantize,
    fxpress.dequantize.default: plain_rules.dequantize,
    aten.cat.default: plain_rules.concatenate,
    **dict.fromkeys(VIEWS, plain_rules.view),
}

_HOST_MODEL = Path(__file__).with_name("host_model.h")

GUARD = """#if DIM != {dim} || BANK_NUM * BANK_ROWS != {spad} || ACC_ROWS != {acc}
#error "{name}.c is for {parameters}: generate it again for this gemmini_params.h"
#endif
"""
PLAIN_LOADS = """/* Loads that repeat pixels, for few channels: Spike's overwrite weights, hardware may define this. */
#ifndef REPEAT_PIXELS
#include "include/gemmini_params.h"
#undef HAS_FIRST_LAYER_OPTIMIZATIONS
#endif
"""


def host_model(parameters: Parameters | None = None) -> dict[str, str]:
    """What the library computes, as C for any compiler: files that stand in for Gemmini's where there is none."""
    array = parameters or Parameters()
    return {"include/gemmini.h": _HOST_MODEL.read_text(), "include/gemmini_params.h": array.header()}


def emit(
    program: Program, *, name: str = "model", parameters: Parameters | None = None, check: bool = False
) -> dict[str, str]:
    """C99 files, by name, whose function `<name>_run` computes on a Gemmini what the quantised Program computes.

    It takes the quantised inputs and writes the results, both as `<name>.h` says; integers equal the Program's to the
    bit. `parameters` are those of the array's `gemmini_params.h`. With `check` there is also a `main` that runs the
    Program's example inputs and compares.

    Raises InvalidInput for a name that C does not allow, and Unsupported that lists every op that Gemmini does not
    compute, with its source line, the reason and a remedy.
    """
    if not name.isascii() or not name.isidentifier():
        raise InvalidInput(f"name must be an identifier of C, not {name!r}")
    _check_values(program)
    array = parameters or Parameters()
    plan = plan_steps(program, array)
    inputs, outputs = arguments_of(program, plan)
    memory = Memory.of(plan, array, inputs, outputs)
    cx = Writer(program, array, plan, memory.places, memory.scratch)
    refused: dict[Node, Refused] = {}
    for step in plan.steps:
        cx.line(f"/* {comment(_title(step))} */")
        cx.lines += memory.declarations.get(step, ())
        rule = array_rules.sum_ if step.sum is not None else RULES.get(step.root.target, plain_rules.unsupported)
        try:
            rule(step, cx)
        except Refused as why:
            refused[step.root] = why
    refuse_all(refused)
    for argument in outputs:
        if cx.place(argument.node) != argument.name:
            plain_rules.copy(cx, cx.place(argument.node), argument.name, argument.size)
    files = {
        f"{name}.h": header(name, plan, inputs, outputs, array),
        f"{name}_weights.h": _weights(cx),
        f"{name}.c": _source(name, cx, inputs, outputs, memory.size),
    }
    if check:
        files[f"{name}_check.c"] = self_check(name, program, inputs, outputs)
    return files


def _check_values(program: Program) -> None:
    if program.is_dynamic:
        raise InvalidInput("program must have fixed sizes, not symbolic ones; capture it without dynamic shapes")
    several = Refused("its result is no tensor", "use ops with one result, such as slices")
    calls = [node for node in program.nodes if node.op == "call_function"]
    refuse_all({node: several for node in calls if not isinstance(node.meta["val"], torch.Tensor)})


def _title(step: Step) -> str:
    names = f"%{step.root.name}" if step.pool is None else f"%{step.root.name}, %{step.pool.name}"
    source = step.root.meta.get("source")
    return f"{names} {'x'.join(map(str, shape(step.node)))}" + (f": {source}" if source else "")


def _weights(cx: Writer) -> str:
    top = (
        "/* Written by fxpress. Weights are [row][column][input][output], of depthwise convolutions\n"
        " * [channel][row][column], of linear layers [input][output]. */\n"
    )
    return top + "\n" + "\n".join(cx.constants.values())


def _source(name: str, cx: Writer, inputs: list[Argument], outputs: list[Argument], size: int) -> str:
    array = cx.parameters
    guard = GUARD.format(
        dim=array.dim, spad=array.bank_num * array.bank_rows, acc=array.acc_rows, name=name, parameters=array
    )
    parts = [
        "/* Written by fxpress for Gemmini; compile with gemmini-rocc-tests on the include path. */",
        *(f"#include <{file}.h>" for file in ("stdbool", "stddef", "stdint", "stdio", "stdlib")),
        "",
        *([PLAIN_LOADS] if cx.repeats_pixels else []),
        *(f'#include "{file}.h"' for file in ("include/gemmini", name, f"{name}_weights")),
        "",
        guard,
    ]
    if size:
        parts += [f"static elem_t memory[{size}] row_align({max(1, ALIGNMENT // array.dim)});", ""]
    parts += [HELPERS[helper].strip() + "\n" for helper in HELPERS if helper in cx.helpers]
    signature = ", ".join(argument.declaration for argument in (*inputs, *outputs))
    body = ["    gemmini_flush(0);", *cx.lines]
    return "\n".join([*parts, f"void {name}_run({signature}) {{", *body, "}", ""])
