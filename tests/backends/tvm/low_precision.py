"""What the tests of layers with operands in fewer bits share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from hypothesis import settings
from hypothesis import strategies as st
from single_op import INPUTS, program_of, single_op
from torch import Tensor

TARGETS = ["cpu", "cpu{isa=avx512}", "cpu{isa=avx2}"]
FEW = settings(max_examples=2)  # of many cases, compiled together
SIZES = st.sampled_from([1, 2, 3, 7, 8, 16, 17, 31, 33, 48, 64, 97])


def run_all(op: Any, cases: Sequence[dict[str, Any]], target: str = "cpu") -> list[Tensor]:
    """What the op gives with each of these arguments, compiled together."""
    program = program_of([(op, arguments) for arguments in cases])
    artifact = fxpress.compile(program, pipeline="", target=target, self_test=False)
    inputs = [value for a in cases for name, value in a.items() if name in INPUTS and value is not None]
    return [array(result) for result in artifact.run_flat(*inputs)]


def run(op: Any, arguments: dict[str, Any], target: str = "cpu") -> Tensor:
    """What the compiled op gives."""
    return run_all(op, [arguments], target)[0]


def check_close(op: Any, cases: Sequence[dict[str, Any]], target: str = "cpu") -> None:
    """The error of the compiled op is that of a float32 kernel."""
    for arguments, found in zip(cases, run_all(op, cases, target), strict=True):
        wide = {
            name: value.double() if isinstance(value, Tensor) and value.dtype == torch.float32 else value
            for name, value in arguments.items()
        }
        if "dtype" in wide:
            wide["dtype"] = torch.float64
        assert_close(found, op(**arguments), op(**wide))


def assert_close(found: Tensor, baseline: Tensor, exact: Tensor) -> None:
    """The error against float64 may be twice that of PyTorch's float32, or four epsilons."""
    assert (found.dtype, found.shape) == (baseline.dtype, baseline.shape)
    bound = max(2 * relative_error(baseline, exact), 4 * FLOAT32_EPSILON)
    assert relative_error(found, exact) <= bound, (relative_error(found, exact), bound)


def model(inputs: Sequence[Tensor], build: Callable[..., list[Any]]) -> Program:
    """The Program whose results `build(rewriter, call, *inputs)` makes; call(op, *arguments) takes tensors too."""
    program = trace(lambda *inputs: list(inputs), *inputs)
    rw = Rewriter(program)

    def call(op: Any, *arguments: Any) -> Any:
        nodes = [rw.constant("constant", a) if isinstance(a, Tensor) else a for a in arguments]
        return rw.call(op, *nodes, at=program.output_node)

    rw.output(*build(rw, call, *program.placeholders))
    rw.finish()
    return program


def check_refused(op: Any, arguments: dict[str, Any], reason: str, inputs: tuple[str, ...] = INPUTS) -> None:
    """Compiling is refused for that reason."""
    with pytest.raises(Unsupported, match=reason):
        fxpress.compile(single_op(op, arguments, inputs), pipeline="", self_test=False)


def array(x: Any) -> Tensor:
    """An output of an artifact as a tensor."""
    return torch.from_numpy(np.asarray(x))
