"""A Program of one op, compiled and compared with the op's definition in every bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fxpress
import numpy as np
import torch
from fxpress.program import Program
from fxpress.rewriter import Rewriter
from fxpress.testing import trace

INPUTS = ("x", "residual", "a", "b")


def single_op(op: Any, arguments: dict[str, Any], inputs: Sequence[str] = INPUTS) -> Program:
    """The Program that calls `op`; arguments named in `inputs` are its inputs, other tensors constants."""
    given = {name: value for name, value in arguments.items() if name in inputs and value is not None}
    program = trace(lambda *tensors: tensors[0], *given.values())
    rw = Rewriter(program)
    nodes = dict(zip(given, program.placeholders, strict=True))
    operands = {
        name: nodes.get(name, rw.constant(name, value) if isinstance(value, torch.Tensor) else value)
        for name, value in arguments.items()
    }
    schema = op._schema.arguments
    rw.output(rw.call(op, *(operands[argument.name] for argument in schema), at=program.output_node))
    rw.finish()
    return program


def check_equal(op: Any, arguments: dict[str, Any], target: str = "cpu") -> Any:
    """Compile `op` for `target`, demand the definition's result to the bit, return the artifact."""
    program = single_op(op, arguments)
    artifact = fxpress.compile(program, pipeline="", target=target, self_test=False)
    inputs = [arguments[name] for name in arguments if name in INPUTS and arguments[name] is not None]
    found = torch.from_numpy(np.asarray(artifact(*inputs)))
    expected = op(*(arguments[argument.name] for argument in op._schema.arguments))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert torch.equal(found, expected)
    return artifact
