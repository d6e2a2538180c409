"""Layers with 16-bit floats: by the instruction for bfloat16, and where there is none, as float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fxpress
import numpy as np
import pytest
import torch
from fxpress.backends.tvm.kernels.bfloat16_conv import Bfloat16Conv
from fxpress.backends.tvm.kernels.conv_shape import rows_as_pixels
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.linear_shape import LinearShape, Rows
from fxpress.program import Program
from fxpress.runtime.tensor_file import numpy_dtype
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st
from low_precision import FEW, SIZES, TARGETS, array, assert_close, check_close, check_refused, model
from torch import Tensor

LINEAR = torch.ops.fxpress.narrow_linear.default
CONV = torch.ops.fxpress.narrow_conv.default
COPY = torch.ops.aten._to_copy.default
BFLOAT16, FLOAT16 = torch.bfloat16, torch.float16


def linear(
    rows: tuple[int, ...],
    n: int,
    k: int,
    *,
    weight: torch.dtype = BFLOAT16,
    bias: bool = True,
    residual: bool = False,
    activation: str = "none",
) -> dict[str, Any]:
    """The arguments of a linear layer with float32 input and result."""
    return {
        "x": torch.randn(*rows, k),
        "weight": torch.randn(n, k).to(weight),
        "bias": torch.randn(n) if bias else None,
        "residual": torch.randn(*rows, n) if residual else None,
        "activation": activation,
        "dtype": torch.float32,
    }


def conv(
    x: tuple[int, ...],
    weight: tuple[int, ...],
    *,
    stride: list[int] | None = None,
    padding: list[int] | None = None,
    groups: int = 1,
    activation: str = "relu",
    dtype: torch.dtype = BFLOAT16,
) -> dict[str, Any]:
    """The arguments of a channels-last convolution with float32 input and result."""
    dims = len(weight) - 2
    return {
        "x": torch.randn(x),
        "weight": torch.randn(weight).to(dtype),
        "bias": torch.randn(weight[0]),
        "residual": None,
        "stride": stride or [1] * dims,
        "padding": padding or [0] * 2 * dims,
        "dilation": [1] * dims,
        "groups": groups,
        "activation": activation,
        "dtype": torch.float32,
        "channels_last": True,
    }


Case = tuple[Any, dict[str, Any], torch.dtype]  # an op, its arguments, and the dtype of its result


def rounded(cases: Sequence[Case]) -> Program:
    """The Program of ops whose x is rounded to the weight's dtype; results are given as float32."""

    def build(rw: Any, call: Any, *inputs: Any) -> Any:
        at, results = rw.program.output_node, []
        for (op, arguments, result), x in zip(cases, inputs, strict=True):
            residual = arguments["residual"]
            values = arguments | {
                "x": rw.call(COPY, x, dtype=arguments["weight"].dtype, at=at),
                "residual": None if residual is None else residual.to(result),
                "dtype": result,
            }
            results.append(rw.call(COPY, call(op, *values.values()), dtype=torch.float32, at=at))
        return results

    return model([arguments["x"] for _, arguments, _ in cases], build)


def check_rounded(cases: Sequence[Case], target: str) -> str:
    """Errors are those of float32 sums of exact products; returns the artifact's text."""
    artifact = fxpress.compile(rounded(cases), pipeline="", target=target, self_test=False)
    results = artifact.run_flat(*(arguments["x"] for _, arguments, _ in cases))
    for (op, arguments, result), found in zip(cases, map(array, results), strict=True):
        x = arguments["x"].to(arguments["weight"].dtype)
        residual = None if arguments["residual"] is None else arguments["residual"].to(result)
        values = arguments | {"x": x.float(), "residual": residual}
        exact = op(**values | {"x": x.double(), "dtype": torch.float64})
        if result == torch.float32:
            assert_close(found, op(**values), exact)
        else:
            step = {BFLOAT16: 2.0**-8, FLOAT16: 2.0**-11}[result]
            error = (found.double() - exact).abs()
            assert (error <= step * 1.01 * exact.abs() + 1e-5 * exact.abs().max()).all()
            assert torch.equal(found, found.to(result).float())
    return str(artifact.text())


@st.composite
def layers(draw: Any) -> dict[str, Any]:
    return linear(
        draw(st.sampled_from([(1,), (5,), (2, 3), (17,), (2, 23)])),
        draw(SIZES),
        draw(SIZES),
        weight=draw(st.sampled_from([BFLOAT16, BFLOAT16, FLOAT16])),
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        activation=draw(st.sampled_from(["none", "relu", "gelu"])),
    )


RESULTS = st.sampled_from([torch.float32, torch.float32, BFLOAT16, FLOAT16])


@pytest.mark.parametrize("target", TARGETS)
@given(st.lists(st.tuples(st.just(LINEAR), layers(), RESULTS), min_size=5, max_size=5))
@FEW
def test_rounded_inputs(target: str, cases: list[Case]) -> None:
    check_rounded(cases, target)


@pytest.mark.parametrize("target", TARGETS)
@given(st.lists(layers(), min_size=5, max_size=5))
@FEW
def test_float32_inputs(target: str, cases: list[dict[str, Any]]) -> None:
    check_close(LINEAR, cases, target)


CONVS = {
    "1x1": lambda: conv((2, 5, 7, 16), (24, 16, 1, 1)),
    "3x3": lambda: conv((1, 9, 6, 8), (20, 8, 3, 3), padding=[1, 1, 1, 1]),
    "strided": lambda: conv((1, 9, 8, 6), (33, 6, 3, 2), padding=[1, 0, 0, 1], stride=[2, 1], activation="gelu"),
    "odd": lambda: conv((1, 6, 6, 3), (16, 3, 3, 3), padding=[1, 1, 1, 1]),
    "grouped": lambda: conv((1, 5, 5, 12), (18, 4, 3, 3), groups=3),
    "depthwise": lambda: conv((1, 6, 6, 16), (16, 1, 3, 3), groups=16, padding=[1, 1, 1, 1]),
    "1d": lambda: conv((2, 11, 8), (12, 8, 3), padding=[1, 1]),
    "deep": lambda: conv((1, 4, 4, 320), (17, 320, 3, 3), padding=[1, 1, 1, 1]),
    "float16": lambda: conv((1, 5, 7, 16), (24, 16, 1, 1), dtype=FLOAT16),
}


@pytest.mark.parametrize("target", TARGETS)
def test_convolutions(target: str) -> None:
    """Each with results in float32 and in bfloat16, one with a residual, and one with channels first."""
    cases = [(CONV, make(), result) for make in CONVS.values() for result in (torch.float32, BFLOAT16)]
    added = CONVS["3x3"]() | {"residual": torch.randn(1, 9, 6, 20)}
    first = added | {"x": torch.randn(1, 8, 9, 6), "residual": torch.randn(1, 20, 9, 6), "channels_last": False}
    check_rounded([*cases, (CONV, added, BFLOAT16), (CONV, added, torch.float32), (CONV, first, BFLOAT16)], target)


@pytest.mark.parametrize("target", TARGETS)
def test_convolutions_of_float32(target: str) -> None:
    check_close(CONV, [CONVS[name]() for name in ("1x1", "3x3", "depthwise", "float16")], target)


def test_where_the_instruction_is_used() -> None:
    if not Target.parse("cpu").has("bf16"):
        pytest.skip("this machine does not multiply bfloat16")
    even, odd = linear((40,), 32, 64), linear((40,), 32, 63)
    cases = [(LINEAR, even, BFLOAT16), (LINEAR, odd, BFLOAT16), (CONV, CONVS["3x3"](), BFLOAT16)]
    kernels = [line.split()[1] for line in check_rounded(cases, "cpu{isa=avx512,extensions=bf16}").splitlines()]
    assert [k for k in kernels if "conv" in k or "linear" in k] == ["bfloat16-conv", "expanded-linear", "bfloat16-conv"]
    for extensions, required in (("bf16", True), ("none", False)):
        target = f"cpu{{isa=avx512,extensions={extensions}}}"
        artifact = fxpress.compile(rounded(cases[:1]), pipeline="", target=target, self_test=False)
        assert ("avx512_bf16" in artifact.manifest["features"]) == required
        assert ("bfloat16-conv" in artifact.text()) == required


@pytest.mark.parametrize("columns", [17, 18, 31])
def test_nothing_is_written_beyond_the_result(columns: int) -> None:
    """Another thread may own what lies there."""
    target = Target.parse("cpu{isa=avx512,extensions=bf16}")
    if not Target.parse("cpu").has("bf16"):
        pytest.skip("this machine does not multiply bfloat16")
    rows, layer = Rows(0, 8), LinearShape.dense(3, columns, 8)
    kernel = Bfloat16Conv.choose(rows_as_pixels(layer, rows), "bfloat16", "float32", target)
    x, weight, y = torch.ones(3, 8), torch.ones(columns, 8, 1, 1), torch.full((4, columns), 7.0)
    bfloat16 = numpy_dtype("bfloat16")
    memory = y.numpy().astype(bfloat16)
    operands = x.numpy().astype(bfloat16), kernel.pack(weight).numpy().astype(bfloat16), np.zeros(columns, np.float32)
    CompiledKernel(kernel, target)(*operands, memory)
    assert memory.astype(np.float32).tolist() == [[8.0] * columns] * 3 + [[7.0] * columns]


@pytest.mark.parametrize("target", TARGETS)
def test_nan_and_infinity_flow(target: str) -> None:
    layers = [linear((4,), 20, k, activation="relu") for k in (24, 25)]
    for layer in layers:
        x = layer["x"]
        x[0, 2], x[1, 5], x[2, -1] = torch.nan, torch.inf, 3.4e38  # the last rounds to infinity
    program = rounded([(LINEAR, layer, torch.float32) for layer in layers])
    artifact = fxpress.compile(program, pipeline="", target=target, self_test=False)
    results = artifact.run_flat(*(layer["x"] for layer in layers))
    for layer, found in zip(layers, map(array, results), strict=True):
        expected = LINEAR(**layer | {"x": layer["x"].bfloat16()})
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found.isinf(), expected.isinf())


@pytest.mark.parametrize("target", TARGETS)
def test_weights_take_half_the_bytes(target: str) -> None:
    large = (LINEAR, linear((1,), 256, 512, bias=False)), (CONV, conv((1, 6, 6, 64), (128, 64, 3, 3)))
    program = rounded([(*case, torch.float32) for case in large])
    artifact = fxpress.compile(program, pipeline="", target=target, self_test=False)
    elements = sum(arguments["weight"].numel() for _, arguments in large)
    assert 2 * elements <= artifact.manifest["memory"]["constants"] <= 2.1 * elements


def test_a_small_model() -> None:
    x = torch.randn(1, 10, 10, 8)
    first, second = CONVS["3x3"](), linear((1, 10, 10), 12, 20, activation="gelu")

    def build(rw: Any, call: Any, x: Any) -> Any:
        half = rw.call(COPY, x, dtype=BFLOAT16, at=rw.program.output_node)
        hidden = call(CONV, half, *list((first | {"dtype": BFLOAT16}).values())[1:])
        return [call(LINEAR, hidden, *list(second.values())[1:])]

    artifact = fxpress.compile(model([x], build))
    hidden = CONV(**first | {"x": x.bfloat16(), "dtype": BFLOAT16})
    expected = LINEAR(**second | {"x": hidden})
    assert (array(artifact(x)[0]) - expected).norm() <= 1e-3 * expected.norm()


def test_refusals() -> None:
    good = linear((2,), 6, 8)
    check_refused(LINEAR, good, "its weight must be a constant", ("x", "weight"))
    float32 = good["weight"].float()
    check_refused(
        LINEAR, good | {"weight": float32}, "its weight must be torch.bfloat16 or torch.float16, not torch.fl"
    )
    check_refused(
        LINEAR, good | {"x": good["x"].double()}, "its x must be torch.float32 or torch.bfloat16, not torch.f"
    )
    check_refused(LINEAR, good | {"bias": torch.ones(6).double()}, "its bias must be torch.float32, not torch.float64")
    wrong: Tensor = torch.ones(2, 6).double()
    check_refused(LINEAR, good | {"residual": wrong}, "its residual must be torch.float32, not torch.float64")
    check_refused(LINEAR, good | {"dtype": torch.float64}, "its result must be torch.float32 or .*, not torch.float64")
    check_refused(LINEAR, good | {"x": good["x"][:0]}, r"its input must have elements, not shape \(0, 8\)")
