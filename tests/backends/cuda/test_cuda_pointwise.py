"""Pointwise programs on the GPU, evaluated: dtypes, widths, broadcasts, strides, layout changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cuda_kernels import EPSILON, NUMPY, run
from fxpress.backends.cuda.kernels.pointwise import Pointwise
from fxpress.backends.tvm.kernels.pointwise_program import Instruction, Stream, copy_program

ALIGNED = (16, 16, 16)


def program(dtype: str, *ops: str) -> tuple[Instruction, ...]:
    """(x + y), then operations of one argument."""
    steps = [
        Instruction("input", (), dtype, (0,)),
        Instruction("input", (), dtype, (1,)),
        Instruction("add", (0, 1), dtype),
    ]
    for op in ops:
        steps.append(Instruction(op, (len(steps) - 1,), dtype))
    return tuple(steps)


def chain(dtype: str, *ops: str, shape=(5, 48), strides=((48, 1), (0, 1), (48, 1)), aligned=ALIGNED) -> Pointwise:
    x, y, out = (Stream(dtype, each) for each in strides)
    steps = program(dtype, *ops)
    return Pointwise.choose(shape, [x, y], [out], steps, [len(steps) - 1], aligned)


@pytest.mark.parametrize(("dtype", "lanes"), [("float32", 4), ("float16", 8), ("bfloat16", 8)])
def test_chain_with_a_broadcast(dtype: str, lanes: int) -> None:
    rng = np.random.default_rng(0)
    x, row = (rng.normal(size=size).astype(NUMPY[dtype]) for size in ((5, 48), (48,)))
    out, kernel = np.zeros_like(x), chain(dtype, "gelu")

    report = run(kernel, x, row, out)

    assert kernel.lanes == lanes
    assert report.excess("global") == 1.0
    total = torch.tensor((x + row).astype(np.float64))
    exact = torch.nn.functional.gelu(total).numpy()
    np.testing.assert_allclose(out.astype(np.float64), exact, rtol=4 * EPSILON[dtype], atol=4 * EPSILON[dtype])


def test_integers_wrap_around() -> None:
    x = np.full((5, 48), 100, np.int8)
    out, kernel = np.zeros_like(x), chain("int8", "relu")

    run(kernel, x, np.full(48, 27, np.int8), out)

    assert kernel.lanes == 16
    assert (out == 127).all()


@pytest.mark.parametrize(
    ("shape", "strides", "aligned", "lanes"),
    [
        ((5, 48), ((48, 1), (48, 1), (48, 1)), (16, 8, 16), 2),  # one operand begins between accesses
        ((5, 48), ((49, 1), (48, 1), (48, 1)), ALIGNED, 1),  # rows of one do
        ((5, 47), ((48, 1), (48, 1), (48, 1)), ALIGNED, 1),  # rows do not end with an access
        ((5, 46), ((46, 1), (46, 1), (46, 1)), ALIGNED, 2),  # dense: one row of 230
        ((5, 48), ((1, 5), (48, 1), (48, 1)), ALIGNED, 4),  # one is read element by element
    ],
)
def test_lanes_fit_what_is_aligned(shape, strides, aligned, lanes: int) -> None:
    rng = np.random.default_rng(0)
    kernel = chain("float32", shape=shape, strides=strides, aligned=aligned)
    memory = [rng.normal(size=300).astype(np.float32) for _ in range(2)]
    out = np.zeros(300, np.float32)

    run(kernel, *memory, out)

    assert kernel.lanes == lanes
    x, y, z = (
        np.lib.stride_tricks.as_strided(m, shape, [4 * s for s in each])
        for m, each in zip((*memory, out), strides, strict=True)
    )
    np.testing.assert_array_equal(z, x + y)


def test_copy_to_channels_last() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    out = np.zeros((2, 4, 5, 3), np.float32)
    source, target = Stream("float32", (60, 20, 5, 1)), Stream("float32", (60, 1, 15, 3))

    run(Pointwise.choose(x.shape, [source], [target], copy_program("float32"), [0], (16, 16)), x, out)

    np.testing.assert_array_equal(out, x.transpose(0, 2, 3, 1))


def test_indices() -> None:
    steps = (Instruction("index", (), "int64", (1,)), Instruction("cast", (0,), "float32"))
    out = np.zeros((3, 8), np.float32)

    run(Pointwise.choose((3, 8), [], [Stream("float32", (8, 1))], steps, [1], (16,)), out)

    np.testing.assert_array_equal(out, np.tile(np.arange(8, dtype=np.float32), (3, 1)))


@pytest.mark.parametrize("op", ["relu", "exp", "tanh", "sigmoid", "relu6", "sqrt"])
def test_nan_and_infinities_flow(op: str) -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    steps: Any = (Instruction("input", (), "float32", (0,)), Instruction(op, (0,), "float32"))
    stream, out = Stream("float32", (4, 1)), np.zeros_like(x)

    run(Pointwise.choose((1, 4), [stream], [stream], steps, [1], (16, 16)), x, out)

    exact = getattr(torch.nn.functional if op == "relu6" else torch, op)(torch.tensor(x)).numpy()
    np.testing.assert_allclose(out, exact, rtol=1e-6)
