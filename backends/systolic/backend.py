"""The systolic backend: integer layers become programs for the array, the CPU computes what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.fx import Node

from ...cpu import CpuTarget
from ...errors import InvalidInput, Unsupported
from ...program import Program
from ...progress import Progress
from ...target import Target
from ..base import YES, Backend, Lowered, Support
from ..tvm.build import Attached, TvmLowered
from ..tvm.lowering import Lowering, OpRule, unsupported_reason
from ..tvm.lowerings import RULES
from .compiler import ArrayStage, CompiledProgram, LayerReport, lower
from .host import check_crossings, run_program, stitch
from .program import SystolicProgram
from .report.performance import LayerFacts, Performance
from .simulator.cycles import simulate_cycles
from .simulator.timeline import Timeline
from .target import SystolicTarget

HOST_RULES: Mapping[Any, OpRule] = {
    **RULES,
    run_program: OpRule(lambda node, cx: cx.call_host(node, on="the array")),
}


@dataclass
class SystolicLowered(Lowered):
    """A Program as parts for the array and for the CPU, in the order in which they run."""

    program: Program
    target: SystolicTarget
    compiled: CompiledProgram
    fallback: str | None

    def __post_init__(self) -> None:
        lowering = Lowering(stitch(self.program, self.compiled), _host(), HOST_RULES, self.fallback)
        lowering.run()
        self._host = TvmLowered(lowering)

    @property
    def stages(self) -> list[ArrayStage]:
        """The array's parts."""
        return [stage for stage in self.compiled.stages if isinstance(stage, ArrayStage)]

    @property
    def programs(self) -> tuple[SystolicProgram, ...]:
        """The array's programs."""
        return tuple(stage.program for stage in self.stages)

    @property
    def facts(self) -> list[list[LayerFacts]]:
        """What the compiler says of each program's layers."""
        return [list(map(_facts, stage.layers)) for stage in self.stages]

    @cached_property
    def timelines(self) -> list[Timeline]:
        """When each instruction of each program runs."""
        return [simulate_cycles(program) for program in self.programs]

    @cached_property
    def performance(self) -> Performance:
        """What a run costs the array."""
        return Performance.of(self.target.architecture, self.timelines, self.facts)

    def text(self) -> str:
        """The parts in order: layers of the array, and the CPU's kernel calls."""
        lines = [f"systolic array: {self.target.architecture}"]
        for index, stage in enumerate(self.stages):
            lines.append(f"program {index}: {len(stage.program.instructions)} instructions")
            lines += [f"  {layer.name}: {layer.op} {layer.shape} {layer.tiling}".rstrip() for layer in stage.layers]
        lines += [f"on the CPU: %{name}: {reason}" for name, reason in self.compiled.reasons.items()]
        return "\n".join([*lines, "kernel calls on the CPU:", self._host.text()])

    def build(
        self, path: Path, reference: Program, *, bundle_runtime: bool = False, progress: Progress | None = None
    ) -> None:
        stage = progress or (lambda name: None)
        stage("comparing with PyTorch")
        check_crossings(self.program, self.compiled, self.program.example_inputs)
        stage("counting cycles")
        report = {
            "systolic": {
                **self.performance.to_json(),
                "facts": [[asdict(layer) for layer in layers] for layers in self.facts],
                "on_cpu": self.compiled.reasons,
            }
        }
        programs = tuple(program.to_bytes() for program in self.programs)
        self._host.attached = Attached(self.target, programs, report, self.text())
        self._host.build(path, reference, bundle_runtime=bundle_runtime, progress=progress)


class SystolicBackend(Backend):
    """Compiles quantised Programs for systolic arrays."""

    name = "systolic"

    def supports(self, node: Node, target: Target) -> Support:
        reason = unsupported_reason(node, _host(), RULES)
        return YES if reason is None else Support(False, reason)

    def lower(self, program: Program, target: Target, *, fallback: str | None = None) -> SystolicLowered:
        if not isinstance(target, SystolicTarget):
            raise InvalidInput(f"target must be a systolic array, such as 'systolic{{rows=16,cols=16}}', not {target}")
        if program.is_dynamic:
            raise Unsupported(
                "a Program with symbolic sizes cannot be compiled for a systolic array; capture it without "
                "dynamic_shapes, once for each shape"
            )
        return SystolicLowered(program, target, lower(program, target.architecture), fallback)


def _facts(layer: LayerReport) -> LayerFacts:
    return LayerFacts(**{field.name: getattr(layer, field.name) for field in fields(LayerFacts)})


def _host() -> CpuTarget:
    target = Target.parse("cpu")
    assert isinstance(target, CpuTarget)
    return target
