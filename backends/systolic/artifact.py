"""An artifact whose quantised layers run on a simulated systolic array: needs numpy, and no PyTorch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import InvalidArtifact, InvalidInput
from ...runtime.artifact import Artifact, Modelled
from ...runtime.host_calls import Functions
from ...runtime.tensor_file import Array
from .architecture import Architecture
from .program import SystolicProgram
from .report.energy import EnergyTable
from .report.performance import LayerFacts, Performance
from .simulator.cycles import simulate_cycles
from .simulator.functional import run
from .simulator.perfetto import write_trace
from .simulator.timeline import Timeline

RUN = "fxpress_systolic::run"
"""The op that a host call names for a run of one of the artifact's programs."""


class SystolicArtifact(Artifact):
    """A compiled model of which the CPU runs the float parts and a systolic array the integer ones.

    `programs` are the array's, in the order in which they run; calling the artifact simulates them, to the bit.
    """

    programs: tuple[SystolicProgram, ...]

    def _functions(self) -> Functions:
        self.programs = tuple(map(SystolicProgram.from_bytes, self._container.programs()))
        for index, program in enumerate(self.programs):
            if program.architecture != self.architecture:
                raise InvalidArtifact(
                    f"program {index} must be for the artifact's array, {self.architecture}, not for "
                    f"{program.architecture}"
                )
        return {RUN: self._run_program}

    def _run_program(self, index: Any, inputs: Sequence[Array]) -> list[Array]:
        if type(index) is not int or not 0 <= index < len(self.programs):
            raise InvalidArtifact(f"program must be one of the artifact's {len(self.programs)}, not {index!r:.50}")
        program = self.programs[index]
        if len(inputs) != len(program.inputs):
            raise InvalidArtifact(f"program {index} must be given {len(program.inputs)} inputs, not {len(inputs)}")
        found = run(program, {value.name: x for value, x in zip(program.inputs, inputs, strict=True)})
        return [found[value.name] for value in program.outputs]

    @cached_property
    def architecture(self) -> Architecture:
        """The machine that the programs are for."""
        from ...target import Target  # here, because a saved target is read by the registry
        from .target import SystolicTarget

        try:
            target = Target.parse(self._manifest.target)
        except InvalidInput as error:
            raise InvalidArtifact(f"target of the manifest must be one that fxpress wrote: {error}") from error
        assert isinstance(target, SystolicTarget)  # or the artifact would be of another class
        return target.architecture

    @cached_property
    def timelines(self) -> tuple[Timeline, ...]:
        """When each instruction of each program runs, with an ideal DRAM."""
        return tuple(map(simulate_cycles, self.programs))

    def performance(self, energy: EnergyTable | None = None) -> Performance:
        """What a run costs the array, layer by layer: cycles, utilisation, bytes, energy."""
        return Performance.of(self.architecture, self.timelines, self._facts(), energy)

    def _facts(self) -> list[list[LayerFacts]]:
        """What the compiler reported of each program's layers; their names alone where the report was left out."""
        named = [[LayerFacts(layer.name, source=layer.source) for layer in program.layers] for program in self.programs]
        if "systolic" not in self.report():
            return named
        try:
            facts = [list(map(LayerFacts.from_json, layers)) for layers in self.report()["systolic"]["facts"]]
        except (KeyError, TypeError) as error:
            raise InvalidArtifact(f"report must have the facts of each layer of the programs ({error!r})") from error
        if list(map(len, facts)) != list(map(len, named)):
            raise InvalidArtifact(f"report must have {list(map(len, named))} layers, not {list(map(len, facts))}")
        return facts

    @property
    def on_cpu(self) -> list[str]:
        """What the CPU computes, and why the array does not."""
        reasons = self.report().get("systolic", {}).get("on_cpu", {})
        return [f"%{name}: {reason}" for name, reason in reasons.items()]

    def modelled(self) -> Modelled:
        """What the array costs with what it is sent and sends; the CPU's part is not known."""
        cost = self.performance()
        cycles = cost.total.cycles + cost.transfer_cycles
        seconds = cycles / (self.architecture.clock_mhz * 1e6)
        return Modelled(seconds, cost.total.joules, cost.total.facts.macs)

    def notes(self) -> list[str]:
        from .report.tables import summary

        return summary(self.performance())

    def sections(self) -> list[tuple[str, str]]:
        from .report.plots import sections

        return sections(self.performance(), self.timelines)

    def disassemble(self) -> str:
        """The programs as text, which the assembler reads: one instruction a line."""
        return "\n".join(
            f"# program {index} of {len(self.programs)} for {program.architecture}\n{program.disassemble()}"
            for index, program in enumerate(self.programs)
        )

    def trace(self, path: str | os.PathLike[str], program: int = 0) -> None:
        """Write when everything in one of the programs happens as a trace for ui.perfetto.dev."""
        if not 0 <= program < len(self.programs):
            raise InvalidInput(f"program must be below {len(self.programs)}, not {program}")
        write_trace(self.timelines[program], path)

    def verilog(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the machine that runs the programs as Verilog-2005; returns the files."""
        from .export import write_verilog

        return write_verilog(self.architecture, Path(folder))

    def export(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write each program for a machine without fxpress: memory image, code, and a C header that describes both."""
        from .export import write_images

        return write_images(self.programs, Path(folder))
