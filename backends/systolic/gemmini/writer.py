"""Where statements of C go: names of values, constants, helpers and calls."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from ....program import Program
from . import c_text
from .parameters import Parameters
from .refusal import Refused
from .steps import Step, Steps

HELPERS = {
    "product": """
/* A product as float32; volatile, so that no compiler fuses it with the sum that follows. */
static float product(float a, float b) {
    volatile float y = a * b;
    return y;
}
""",
    "saturate": """
/* The nearest integer, ties to even, clipped. Floats near 1.5 * 2^23 have no fraction: adding it rounds. */
static elem_t saturate(float x, int low, int high) {
    volatile float shifted;
    if (x <= low) return low;
    if (x >= high) return high;
    shifted = x + 12582912.0f;
    return (elem_t)(shifted - 12582912.0f);
}
""",
    "clip": """
static void clip(elem_t *y, int n, int low, int high) {
    for (int i = 0; i < n; i++) y[i] = y[i] < low ? low : y[i] > high ? high : y[i];
}
""",
}


@dataclass
class Writer:
    """What rules write to. `places` are the names of values in C, `scratch` those of 32-bit sums of a step."""

    program: Program
    parameters: Parameters
    steps: Steps
    places: Mapping[Node, str]
    scratch: Mapping[Step, str]
    lines: list[str] = field(default_factory=list)
    constants: dict[str, str] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)
    repeats_pixels: bool = False  # whether the library may pack pixels of few channels into one row

    def place(self, node: Node) -> str:
        """The name of a pointer to a value's first element."""
        return self.places[self.steps.base(node)]

    def tensor(self, node: Node) -> torch.Tensor:
        """The value of a constant; refuses what is computed."""
        if node.op != "get_attr":
            raise Refused(
                f"%{node.name} is computed, and must be a constant", "run the passes of the pipeline 'default'"
            )
        return self.program.constant(node)

    def constant(self, node: Node, values: torch.Tensor) -> str:
        """The name of an array with `values`, made from the constant `node`."""
        return self.array(c_text.identifier(node.name), values)

    def array(self, name: str, values: torch.Tensor) -> str:
        """The name of an array with these int8 or int32 values, `name` if that is free."""
        is_sum = values.dtype == torch.int32
        kind, alignment = ("acc_t", "row_align_acc(1)") if is_sum else ("elem_t", "row_align(1)")
        unique, number = name, 1
        while True:
            text = c_text.array(kind, unique, values, alignment)
            if self.constants.setdefault(unique, text) == text:
                return unique
            unique, number = f"{name}_{number}", number + 1

    def call(self, function: str, *arguments: Any) -> None:
        """A call, wrapped; Python's booleans become C's."""
        texts = [str(x).lower() if isinstance(x, bool) else str(x) for x in arguments]
        self.lines += textwrap.wrap(
            f"{function}({', '.join(texts)});", 110, initial_indent="    ", subsequent_indent="        ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip

    def line(self, text: str, depth: int = 1) -> None:
        """One line of plain C."""
        self.lines.append("    " * depth + text)

    def use(self, *names: str) -> None:
        """Have these helpers in the file."""
        self.helpers.update(names)
