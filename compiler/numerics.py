"""Judging accuracy: errors are measured against float64 and compared with PyTorch's own float32 error."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Interpreter
from torch.utils._pytree import tree_map

from .ops import fxpress
from .program import Program

aten = torch.ops.aten

FLOAT32_EPSILON = 2.0**-23
ALLOWED_EPSILONS = 4
ALLOWED_RATIO = 2
EDGE_EPSILONS = 16
"""How close to the edge between two integers, in float32 epsilons, a number may be rounded to either."""
DISTURBED_RUNS = 4
NAMESPACES = ("aten", "prims", "fxpress")  # of ops that compute in whatever dtype they are given


@dataclass(frozen=True)
class Errors:
    """Per output: the relative error of what is judged and of the float32 baseline, both against float64."""

    actual: tuple[float, ...]
    baseline: tuple[float, ...]

    @property
    def bounds(self) -> tuple[float, ...]:
        """The largest acceptable error of each output: max(2x the baseline's, 4 float32 epsilons)."""
        return tuple(max(ALLOWED_RATIO * b, ALLOWED_EPSILONS * FLOAT32_EPSILON) for b in self.baseline)

    @property
    def acceptable(self) -> bool:
        """Whether every output is within its bound."""
        return all(a <= bound for a, bound in zip(self.actual, self.bounds, strict=True))

    def __str__(self) -> str:
        return "; ".join(
            f"output {i}: error {a:.3g}, float32 baseline {b:.3g}, bound {bound:.3g}"
            for i, (a, b, bound) in enumerate(zip(self.actual, self.baseline, self.bounds, strict=True))
        )


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """||actual - expected|| / ||expected|| in float64; infinite where NaN, infinity or an integer differs."""
    if actual.shape != expected.shape:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(actual.to(expected.dtype), expected) else float("inf")
    x, y = actual.double(), expected.double()
    finite = y.isfinite()
    if not torch.equal(finite, x.isfinite()):
        return float("inf")
    if not torch.equal(x[~finite].nan_to_num(), y[~finite].nan_to_num()):
        return float("inf")
    x, y = x[finite], y[finite]
    norm = float(y.norm())
    difference = float((x - y).norm())
    return difference / norm if norm > 0 else difference


def compare_outputs(
    actual: Sequence[torch.Tensor], baseline: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]
) -> Errors:
    """The errors of `actual` and `baseline` (both float32) against `reference` (float64), output by output."""
    return Errors(
        tuple(relative_error(a, r) for a, r in zip(actual, reference, strict=True)),
        tuple(relative_error(b, r) for b, r in zip(baseline, reference, strict=True)),
    )


def run_float64(program: Program, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Run a float32 Program in float64: constants, inputs and float32 casts inside become float64.

    So do 16-bit floats of the dtypes that inputs have: such a Program computes in them. Where inputs are float32,
    rounding to 16 bits is what the Program says. Ops of other libraries may know float32 only: they get that, and what
    they return counts as exact.
    """
    widened = {torch.float32} | {x.dtype for x in inputs if x.dtype in (torch.float16, torch.bfloat16)}
    wide = [x.double() if x.dtype in widened else x for x in inputs]
    with torch.no_grad():
        return tuple(Float64(program.graph_module, widened).run(*wide))


def has_rounding(program: Program) -> bool:
    """Whether the Program rounds float32 numbers that it computed to integers, so that one error may flip a step.

    Inputs and constants have no error: a Program that quantises only those has one result everywhere.
    """
    return any(
        node.target in _ROUNDING or (node.target is fxpress.quantize.default and not _is_given(node.args[0]))
        for node in program.graph.nodes
    )


def run_disturbed(program: Program, inputs: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, ...]]:
    """Outputs of a quantised Program where rounding to integers falls the other way, for numbers near an edge.

    Between `x` and quantize(x) a backend may sum in another order, and a number within 16 epsilons (of its own size or
    the root mean square of its tensor) of the edge between two integers may then become the other one. The first run
    flips all of those and at least the nearest of each tensor, the others random halves. How far their outputs are off
    is how far a right backend's may be, which the rounding of one run does not tell.
    """
    with torch.no_grad():
        return [tuple(_Disturbed(program.graph_module, run).run(*inputs)) for run in range(DISTURBED_RUNS)]


def disturbed_errors(
    program: Program, inputs: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]
) -> tuple[float, ...]:
    """For each output the largest error of `run_disturbed` against `reference` (float64)."""
    runs = run_disturbed(program, inputs)
    return tuple(max(relative_error(run[i], expected) for run in runs) for i, expected in enumerate(reference))


class _Disturbed(Interpreter):
    def __init__(self, module: torch.fx.GraphModule, run: int) -> None:
        super().__init__(module)
        self._run = run
        self._generator = torch.Generator().manual_seed(run)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is fxpress.quantize.default:
            return self._quantize(*args)
        if target in _ROUNDING:
            position = _ROUNDING[target]
            args = (*args[:position], self._near(args[position]), *args[position + 1 :])
        return super().call_function(target, args, kwargs)

    def _quantize(self, x: torch.Tensor, scale: float, zero: int) -> torch.Tensor:
        steps = x.float() * torch.tensor(1 / scale).float()
        down = steps.floor()
        size = steps.abs() + steps.square().mean().sqrt()
        distance = (steps - down - 0.5).abs()
        flips = (distance <= EDGE_EPSILONS * FLOAT32_EPSILON * size.nan_to_num(0.0, 0.0)).contiguous()
        if x.numel():
            flips.view(-1)[distance.nan_to_num(1.0).argmin()] = True
        if self._run:
            flips &= torch.rand(x.shape, generator=self._generator) < 0.5
        nearest = steps.round()
        other = torch.where(nearest > down, down, down + 1)
        real = (torch.where(flips, other, nearest).double() * scale).float()
        rounded: torch.Tensor = fxpress.quantize.default(torch.where(steps.isfinite(), real, x), scale, zero)
        return rounded

    def _near(self, value: Any) -> Any:
        """A float tensor or number with errors of up to 16 epsilons."""
        amount = EDGE_EPSILONS * FLOAT32_EPSILON
        if isinstance(value, float):
            return value * (1 + amount * (-1) ** self._run)
        return value * (1 + amount * (2 * torch.rand(value.shape, generator=self._generator) - 1))


class Float64(Interpreter):
    """Runs a Program in float64 where it computes in the `widened` dtypes, as `run_float64` says."""

    def __init__(self, module: torch.fx.GraphModule, widened: Container[torch.dtype] = (torch.float32,)) -> None:
        super().__init__(module)
        self._widened = widened

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._wide(super().get_attr(target, args, kwargs))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = tree_map(self._wide_dtype, (args, kwargs))
        if isinstance(target, torch._ops.OpOverload) and target.namespace not in NAMESPACES:
            args, kwargs = tree_map(lambda x: _cast(x, torch.float64, torch.float32), (args, kwargs))
        result = super().call_function(target, args, kwargs)
        return tree_map(self._wide, result)

    def _wide(self, value: Any) -> Any:
        return value.double() if isinstance(value, torch.Tensor) and value.dtype in self._widened else value

    def _wide_dtype(self, value: Any) -> Any:
        if not isinstance(value, torch.dtype):
            return value
        if value in self._widened:
            return torch.float64
        return torch.complex128 if value == torch.complex64 else value


def _is_given(value: Any) -> bool:
    """Whether a node's value is an input or a constant, or a view of one."""
    while value.op == "call_function" and value.target in _VIEWS:
        value = value.args[0]
    return value.op in ("placeholder", "get_attr")


_VIEWS = (
    aten.reshape.default, aten.permute.default, aten.slice.Tensor, aten.select.int, aten.expand.default,
    aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default,
)  # fmt: skip
_ROUNDING = {fxpress.dynamic_linear.default: 0}
"""Ops that round to integers after float32 arithmetic of their own: which argument to disturb."""


def _cast(value: Any, source: torch.dtype, result: torch.dtype) -> Any:
    return value.to(result) if isinstance(value, torch.Tensor) and value.dtype == source else value
