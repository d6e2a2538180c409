"""Where values are: arguments of the generated function, or one array in which values that never meet share bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import torch
from torch.fx import Node

from ..compiler.allocation import Lifetime, allocate
from ..compiler.views import Buffer
from .c_text import identifier
from .parameters import Parameters
from .signature import Argument
from .steps import Step, Steps, shape

ALIGNMENT = 64
"""Bytes: enough for floats, sums and a row of most arrays."""


@dataclass
class Memory:
    """Names of pointers: `places` to values, `scratch` to sums of steps; how steps declare them; bytes in all."""

    places: dict[Node, str]
    scratch: dict[Step, str] = field(default_factory=dict)
    declarations: dict[Step, list[str]] = field(default_factory=dict)
    size: int = 0

    @staticmethod
    def of(plan: Steps, parameters: Parameters, inputs: list[Argument], outputs: list[Argument]) -> Memory:
        """The memory of a plan's values; the first result of those that are one value names it."""
        places = {plan.base(argument.node): argument.name for argument in reversed(outputs)}
        memory = Memory(places | {argument.node: argument.name for argument in inputs})
        word = max(parameters.dim, ALIGNMENT)
        buffers: dict[Node, Buffer] = {}
        needed: dict[Buffer, Lifetime] = {}
        pointers: list[tuple[Step, str, Buffer]] = []
        for index, step in enumerate(plan.steps):
            for x in step.operands:
                if x in buffers:
                    needed[buffers[x]].last = index
            made = []
            if step.scratch_bytes:
                name = memory.scratch[step] = f"sums_{index}"
                made.append(("acc_t", Buffer(name, -(-step.scratch_bytes // word))))
            if step.node not in memory.places:
                name = memory.places[step.node] = identifier(step.node.name)
                value = step.node.meta["val"]
                kind = "elem_t" if value.dtype == torch.int8 else "float"
                buffers[step.node] = Buffer(name, -(-prod(shape(step.node)) * value.element_size() // word))
                made.append((kind, buffers[step.node]))
            for kind, buffer in made:
                needed[buffer] = Lifetime(index, index)
                pointers.append((step, kind, buffer))
        memory.size = allocate(needed) * word
        for step, kind, buffer in pointers:
            address = f"memory + {buffer.address * word}"
            address = address if kind == "elem_t" else f"({kind} *)({address})"
            memory.declarations.setdefault(step, []).append(f"    {kind} *const {buffer.name} = {address};")
        return memory
