"""What rounding can do to a Program's outputs: the yardstick for random graphs.

A random graph may cancel nearly everything and then divide by it. PyTorch's float32 error in such a graph is luck, so
that twice it is no bound. Therefore every value of the float64 run is disturbed by float32 rounding as well, and what
that does to the outputs is allowed too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fxpress.numerics import FLOAT32_EPSILON, Float64, compare_outputs, relative_error
from fxpress.program import Program

TRIALS = 3
ALLOWED_SPREADS = 4


class Disturbed(Float64):
    """Runs a Program in float64 and rounds every float value at random, by at most one float32 epsilon."""

    def run_node(self, n: Any) -> Any:
        value = super().run_node(n)
        if n.op in ("placeholder", "call_function") and isinstance(value, torch.Tensor) and value.is_floating_point():
            return value * (1 + FLOAT32_EPSILON * (2 * torch.rand_like(value) - 1))
        return value


def judge(program: Program, outputs: Sequence[torch.Tensor]) -> list[str]:
    """What is wrong with `outputs` as results of `program` on its example inputs; empty when nothing is."""
    inputs = program.example_inputs
    wide = [x.double() if x.dtype == torch.float32 else x for x in inputs]
    expected = program.run_flat(*inputs)
    types = [(x.dtype, tuple(x.shape)) for x in expected]
    found = [(x.dtype, tuple(x.shape)) for x in outputs]
    if types != found:
        return [f"outputs must be {types}, not {found}"]
    with torch.no_grad():
        reference = tuple(Float64(program.graph_module).run(*wide))
        trials = [tuple(Disturbed(program.graph_module).run(*wide)) for _ in range(TRIALS)]
    errors = compare_outputs(outputs, expected, reference)
    problems = []
    for i, (actual, bound) in enumerate(zip(errors.actual, errors.bounds, strict=True)):
        spread = max(relative_error(trial[i], reference[i]) for trial in trials)
        if actual > max(bound, ALLOWED_SPREADS * spread):
            problems.append(f"output {i}: error {actual:.3g}, bound {bound:.3g}, spread {spread:.3g}")
    return problems
