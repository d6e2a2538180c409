"""GRU and LSTM layers: Linear over all steps plus Recurrent, against torch in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.linear import Linear
from fxpress.backends.tvm.kernels.linear_shape import LinearShape
from fxpress.backends.tvm.kernels.recurrent import GATES, Recurrent
from fxpress.target import Target

ISAS = ["avx2", "avx512"]


def _layer_error(
    isa: str, kind: str, directions: int, steps: int, batch: int, hidden: int, initial: bool = True, **changes: object
) -> float:
    torch.manual_seed(1)
    target = Target.parse(f"cpu{{isa={isa},cores=2}}")
    module = getattr(torch.nn, kind.upper())(9, hidden, bidirectional=directions == 2)
    x = torch.randn(steps, batch, 9)
    states = [torch.randn(directions, batch, hidden) for _ in range(1 + (kind == "lstm"))]
    suffixes = ["", "_reverse"][:directions]
    parameter = lambda name: [getattr(module, f"{name}_l0{suffix}").detach() for suffix in suffixes]  # noqa: E731

    kernel = Recurrent.choose(
        kind, directions=directions, steps=steps, batch=batch, hidden=hidden, target=target, initial=initial
    )
    kernel = dataclasses.replace(kernel, **changes)
    columns = directions * GATES[kind] * hidden
    linear = Linear.choose(LinearShape.dense(steps * batch, columns, 9, bias=True), target)
    gates = np.full((steps, batch, columns), np.nan, np.float32)
    weight_ih, bias_ih = torch.cat(parameter("weight_ih")), torch.cat(parameter("bias_ih"))
    CompiledKernel(linear, target)(x.numpy(), linear.pack(weight_ih).numpy(), bias_ih.numpy(), gates)
    y = np.full((steps, batch, directions * hidden), np.nan, np.float32)
    finals = [np.full((directions, batch, hidden), np.nan, np.float32) for _ in states]
    weight, bias = kernel.pack(parameter("weight_hh")), torch.stack(parameter("bias_hh"))
    given = [state.numpy() for state in states] if initial else []
    CompiledKernel(kernel, target)(gates, weight.numpy(), bias.numpy(), *given, y, *finals)

    doubles = [state.double() * initial for state in states]
    with torch.no_grad():
        expected, last = module.double()(x.double(), doubles[0] if kind == "gru" else tuple(doubles))
    lasts = [last] if kind == "gru" else list(last)
    pairs = zip([y, *finals], [expected, *lasts], strict=True)
    return max(float((torch.from_numpy(a).double() - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize(
    ("directions", "steps", "batch", "hidden"), [(1, 1, 1, 1), (2, 5, 3, 20), (1, 4, 7, 33), (2, 3, 1, 40)]
)
def test_layer_matches_torch(isa: str, kind: str, directions: int, steps: int, batch: int, hidden: int) -> None:
    assert _layer_error(isa, kind, directions, steps, batch, hidden) < 1e-6


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_state_starts_at_zero_without_initial(kind: str) -> None:
    assert _layer_error("avx2", kind, 2, 4, 2, 11, initial=False) < 1e-6


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_units_shared_by_cores_gives_the_same(kind: str) -> None:
    assert _layer_error("avx512", kind, 2, 4, 3, 70, split="units", tile_vectors=2) < 1e-6
    assert _layer_error("avx2", kind, 1, 3, 1, 37, split="units", tile_vectors=1) < 1e-6
