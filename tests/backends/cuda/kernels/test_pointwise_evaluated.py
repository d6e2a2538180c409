"""Chains of elementwise operations, evaluated: broadcasts, transposed views, vectors and sizes that are odd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fxpress.backends.cuda.kernels.pointwise import Pointwise
from fxpress.backends.tvm.kernels.pointwise_program import Instruction, Stream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ADD = (Instruction("input", (), "float32", (0,)), Instruction("input", (), "float32", (1,)))


def program(op: str) -> tuple[Instruction, ...]:
    return (*ADD, Instruction(op, (0, 1), "float32"))


def dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return tuple(strides)


@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_broadcasts_of_any_shape(run_kernel: Callable[..., Any], shape: tuple[int, ...], data: st.DataObject) -> None:
    kept = tuple(data.draw(st.sampled_from([1, size])) for size in shape)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(kept).astype(np.float32)
    strides = tuple(0 if k == 1 else s for k, s in zip(kept, dense(kept), strict=True))
    streams = (Stream("float32", dense(shape)), Stream("float32", strides))
    kernel = Pointwise.choose(shape, streams, streams[:1], program("add"), (2,), (256, 256, 256))
    out = np.full(shape, np.nan, np.float32)
    run_kernel(kernel, x, y, out)
    np.testing.assert_array_equal(out, x + y)


@pytest.mark.parametrize(("size", "lanes"), [(1024, 4), (1026, 2), (1023, 1)])
def test_accesses_are_as_wide_as_the_size_allows(run_kernel: Callable[..., Any], size: int, lanes: int) -> None:
    x, y = np.random.default_rng(0).standard_normal((2, size)).astype(np.float32)
    streams = (Stream("float32", (1,)), Stream("float32", (1,)))
    kernel = Pointwise.choose((size,), streams, streams[:1], program("mul"), (2,), (256, 256, 256))
    out = np.full(size, np.nan, np.float32)
    report = run_kernel(kernel, x.copy(), y.copy(), out)
    np.testing.assert_array_equal(out, x * y)
    assert {each.width for each in report.traffic} == {4 * lanes}
    assert report.excess("global") <= 1.1


def test_transposed_view(run_kernel: Callable[..., Any]) -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 33, 20)).astype(np.float32)
    streams = (Stream("float32", (1, 20)), Stream("float32", (1, 20)))
    kernel = Pointwise.choose((20, 33), streams, (Stream("float32", (33, 1)),), program("sub"), (2,), (256, 256, 256))
    out = np.full((20, 33), np.nan, np.float32)
    run_kernel(kernel, x.copy(), y.copy(), out)
    np.testing.assert_array_equal(out, (x - y).T)


FLOATS = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 0.5, 1.5, -7.0, 3.0, 100.0, 1e-3]
UNARY = (
    "neg abs sign square reciprocal sqrt rsqrt exp expm1 log log1p sin cos erf exp2 log2 log10 tan asin acos atan sinh "
    "cosh asinh acosh atanh erfc lgamma relu floor ceil trunc round frac isnan isinf isfinite signbit logical_not"
)
BINARY = (
    "add sub mul div remainder fmod minimum maximum fmin fmax atan2 hypot nextafter pow logaddexp copysign eq ne lt le "
    "gt ge logical_and logical_or logical_xor"
)


@pytest.mark.parametrize("names", [UNARY, BINARY], ids=["unary", "binary"])
def test_operations_on_special_values(run_kernel: Callable[..., Any], names: str) -> None:
    pairs = torch.meshgrid(*[torch.tensor(FLOATS)] * 2, indexing="ij")
    inputs = [each.reshape(-1).contiguous() for each in pairs][: 2 if names is BINARY else 1]
    wanted = {name: getattr(torch, name)(*inputs) for name in names.split()}
    outputs = [torch.zeros_like(value) for value in wanted.values()]
    program = [Instruction("input", (), "float32", (i,)) for i in range(len(inputs))]
    streams = [Stream(str(value.dtype).removeprefix("torch."), (1,)) for value in outputs]
    arguments = tuple(range(len(inputs)))
    program += [Instruction(name, arguments, each.dtype) for name, each in zip(wanted, streams, strict=True)]
    results = tuple(range(len(inputs), len(program)))
    kernel = Pointwise((225,), (Stream("float32", (1,)),) * len(inputs), tuple(streams), tuple(program), results)
    run_kernel(kernel, *(each.numpy() for each in [*inputs, *outputs]))
    for (name, value), output in zip(wanted.items(), outputs, strict=True):
        torch.testing.assert_close(
            output, value, rtol=3e-6, atol=3e-7, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )
