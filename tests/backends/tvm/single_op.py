"""Programs of ops that read inputs only, compiled and compared with the ops' definitions in every bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fxpress
import numpy as np
import torch
from fxpress.program import Program
from fxpress.rewriter import Rewriter
from fxpress.testing import trace

INPUTS = ("x", "residual", "a", "b", "indices")
Case = tuple[Any, dict[str, Any]]  # an op and its arguments by name


@dataclass(frozen=True)
class Computed:
    """An argument that an op computes from constants."""

    op: Any
    arguments: tuple[Any, ...]

    def value(self) -> Any:
        return self.op(*self.arguments)


def program_of(cases: Sequence[Case], inputs: Sequence[str] = INPUTS) -> Program:
    """The Program of these calls; arguments named in `inputs` are its inputs, other tensors constants."""
    given = _inputs(cases, inputs)
    program = trace(lambda *tensors: [tensors[0] for _ in cases], *given.values())
    rw = Rewriter(program)
    nodes = dict(zip(given, program.placeholders, strict=True))
    results = []
    for number, (op, arguments) in enumerate(cases):
        operands = {
            name: nodes[number, name] if (number, name) in nodes else _operand(rw, program, name, value)
            for name, value in arguments.items()
        }
        schema = op._schema.arguments
        results.append(rw.call(op, *(operands[argument.name] for argument in schema), at=program.output_node))
    rw.output(*results)
    rw.finish()
    return program


def _operand(rw: Rewriter, program: Program, name: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return rw.constant(name, value)
    if isinstance(value, Computed):
        operands = [_operand(rw, program, name, part) for part in value.arguments]
        return rw.call(value.op, *operands, at=program.output_node)
    return value


def single_op(op: Any, arguments: dict[str, Any], inputs: Sequence[str] = INPUTS) -> Program:
    """The Program that calls `op`."""
    return program_of([(op, arguments)], inputs)


def check_equal(op: Any, arguments: dict[str, Any], target: str = "cpu") -> Any:
    """Compile `op` for `target`, demand the definition's result to the bit, return the artifact."""
    return check_all([(op, arguments)], target)


def check_all(cases: Sequence[Case], target: str = "cpu") -> Any:
    """Compile all cases into one artifact for `target`, demand the definitions' results to the bit, return it."""
    artifact = fxpress.compile(program_of(cases), pipeline="", target=target, self_test=False)
    results = artifact.run_flat(*_inputs(cases, INPUTS).values())
    for number, ((op, arguments), result) in enumerate(zip(cases, results, strict=True)):
        found = torch.from_numpy(np.asarray(result))
        values = [arguments[argument.name] for argument in op._schema.arguments]
        expected = op(*(value.value() if isinstance(value, Computed) else value for value in values))
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert torch.equal(found, expected), f"case {number} differs: {arguments}"
    return artifact


def _inputs(cases: Sequence[Case], names: Sequence[str]) -> dict[tuple[int, str], torch.Tensor]:
    return {
        (number, name): value
        for number, (_, arguments) in enumerate(cases)
        for name, value in arguments.items()
        if name in names and value is not None
    }
