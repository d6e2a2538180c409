"""What may improve a quantised model, as steps around calibration, by name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from ...errors import InvalidInput

if TYPE_CHECKING:
    from ...program import Program
    from .calibration import Calibration
    from .plan import Plan
    from .scheme import QuantConfig

ALGORITHMS: dict[str, str] = {
    "awq": "fxpress.passes.quantization.awq:Awq",
    "bias-correction": "fxpress.passes.quantization.bias_correction:BiasCorrection",
    "equalize": "fxpress.passes.quantization.equalize:EqualizeRanges",
    "gptq": "fxpress.passes.quantization.gptq:Gptq",
    "learned-rounding": "fxpress.passes.quantization.learned_rounding:LearnedRounding",
    "smooth-quant": "fxpress.passes.quantization.smooth_quant:SmoothQuant",
}
"""Name -> where the Algorithm is defined; nothing is imported before its name is asked for."""


class Algorithm:
    """One improvement. Override `prepare`, `refine` or both."""

    def prepare(self, program: Program, config: QuantConfig, calibration: Calibration) -> Program:
        """Before ranges are chosen: return the fused float32 Program, changed by passes so that it quantises better.

        It must still compute the same function.
        """
        return program

    def refine(self, plan: Plan, calibration: Calibration) -> None:
        """After ranges are chosen: change `plan.layers` and `plan.values`; `calibration.replay` gives activations."""


def find_algorithms(names: Sequence[str]) -> list[Algorithm]:
    """The algorithms of these names, in order. Raises InvalidInput for an unknown one."""
    found = []
    for name in names:
        if name not in ALGORITHMS:
            raise InvalidInput(f"algorithm must be one of {sorted(ALGORITHMS)}, not {name!r}")
        found.append(EntryPoint(name="", value=ALGORITHMS[name], group="").load()())
    return found
