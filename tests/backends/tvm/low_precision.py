"""What the tests of layers with operands in fewer bits share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fxpress
import numpy as np
import pytest
import torch
from fxpress.errors import Unsupported
from fxpress.numerics import FLOAT32_EPSILON, relative_error
from fxpress.program import Program
from fxpress.rewriter import Rewriter
from fxpress.testing import trace
from hypothesis import strategies as st
from single_op import INPUTS, single_op
from torch import Tensor

TARGETS = ["cpu", "cpu{isa=avx512}", "cpu{isa=avx2}"]
SIZES = st.sampled_from([1, 2, 3, 7, 8, 16, 17, 31, 33, 48, 64, 97])


def run(op: Any, arguments: dict[str, Any], target: str = "cpu") -> Tensor:
    """What the compiled op gives."""
    artifact = fxpress.compile(single_op(op, arguments), pipeline="", target=target, self_test=False)
    inputs = [value for name, value in arguments.items() if name in INPUTS and value is not None]
    return torch.from_dlpack(artifact(*inputs))


def check_close(op: Any, arguments: dict[str, Any], target: str = "cpu") -> None:
    """The error of the compiled op is that of a float32 kernel."""
    wide = {
        name: value.double() if isinstance(value, Tensor) and value.dtype == torch.float32 else value
        for name, value in arguments.items()
    }
    assert_close(run(op, arguments, target), op(**arguments), op(**wide))


def assert_close(found: Tensor, baseline: Tensor, exact: Tensor) -> None:
    """The error against float64 may be twice that of PyTorch's float32, or four epsilons."""
    assert (found.dtype, found.shape) == (baseline.dtype, baseline.shape)
    bound = max(2 * relative_error(baseline, exact), 4 * FLOAT32_EPSILON)
    assert relative_error(found, exact) <= bound, (relative_error(found, exact), bound)


def model(x: Tensor, build: Callable[[Rewriter, Any, Any], Any]) -> Program:
    """The Program whose result `build(rewriter, call, x)` makes; call(op, *arguments) makes a node or a constant."""
    program = trace(lambda x: x, x)
    rw = Rewriter(program)

    def call(op: Any, *arguments: Any) -> Any:
        nodes = [
            rw.constant(f"c{len(program.nodes)}_{i}", a) if isinstance(a, Tensor) else a
            for i, a in enumerate(arguments)
        ]
        return rw.call(op, *nodes, at=program.output_node)

    rw.output(build(rw, call, program.placeholders[0]))
    rw.finish()
    return program


def check_refused(op: Any, arguments: dict[str, Any], reason: str, inputs: tuple[str, ...] = INPUTS) -> None:
    """Compiling is refused for that reason."""
    with pytest.raises(Unsupported, match=reason):
        fxpress.compile(single_op(op, arguments, inputs), pipeline="", self_test=False)


def array(x: Any) -> Tensor:
    """An output of an artifact as a tensor."""
    return torch.from_numpy(np.asarray(x))
