"""From a quantised Program to stages for the host and for the array."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....errors import InternalError
from ....program import Program
from ..architecture import Architecture
from ..simulator.functional import run
from .array_stage import ArrayStage, array_stage
from .float_layers import split_float_layers
from .host_stage import HostStage, host_stage
from .partition import check_quantized, partition
from .selector import Refused


@dataclass(frozen=True, eq=False)
class CompiledProgram:
    """Stages that run in order on values by name.

    `inputs` name the flat inputs of the Program, `outputs` its flat results. `reasons` say, by name, why nodes are on
    the host; layers that the array refused keep the name that they have in the Program.
    """

    architecture: Architecture
    stages: tuple[HostStage | ArrayStage, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reasons: dict[str, str]

    def run_flat(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Execute on flat inputs: the host's stages in PyTorch, the array's by the functional simulator."""
        values = dict(zip(self.inputs, inputs, strict=True))
        for stage in self.stages:
            given = {name: values[name] for name in stage.inputs}
            if isinstance(stage, HostStage):
                results = stage.program.run_flat(*given.values())
                values.update(zip(stage.outputs, results, strict=True))
                continue
            found = run(stage.program, {name: x.contiguous().numpy() for name, x in given.items()})
            values.update((name, torch.from_numpy(x.copy())) for name, x in found.items())
        return tuple(values[name] for name in self.outputs)


def lower(program: Program, architecture: Architecture) -> CompiledProgram:
    """Compile a quantised Program for an architecture.

    What the array cannot run becomes Programs for the host. Raises Unsupported for a Program that is not quantised, or
    not in mode I, and for a layer whose smallest tile does not fit, saying what would.
    """
    refused: dict[str, str] = {}
    for _ in range(len(program.nodes) + 1):
        whole = split_float_layers(program, refused)
        check_quantized(whole, refused)
        parts, reasons = partition(whole, refused)
        stages: list[HostStage | ArrayStage] = []
        try:
            for part in parts:
                if part.on_array:
                    stages.append(array_stage(whole, architecture, part.inputs, part.nodes, part.outputs))
                else:
                    stages.append(host_stage(whole, part.inputs, part.nodes, part.outputs))
        except Refused as refusal:
            refused[refusal.node.meta.get("float_layer", refusal.node.name)] = refusal.reason
            continue
        inputs = tuple(node.name for node in whole.placeholders)
        return CompiledProgram(architecture, tuple(stages), inputs, tuple(node.name for node in whole.results), reasons)
    raise InternalError("every node was refused once and yet there is another; please report the program")
