"""Pointwise programs against PyTorch: every operation and dtype, views, broadcasts, layout changes,
borders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.pointwise import (
    FillFrame,
    Pointwise,
    copy_kernel,
    fill_kernel,
    pointwise_kernel,
)
from fxpress.backends.tvm.kernels.pointwise_ops import POINTWISE
from fxpress.backends.tvm.kernels.pointwise_program import Instruction, Stream
from fxpress.backends.tvm.kernels.vmath import ACTIVATIONS
from fxpress.errors import InvalidInput
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st

TARGETS = [Target.parse(f"cpu{{isa={isa},cores=2}}") for isa in ("avx2", "avx512")]
FLOATS = [
    float("nan"),
    float("inf"),
    -float("inf"),
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.5,
    -2.5,
    0.5,
    1.5,
    -7.0,
    3.0,
    100.0,
    1e-3,
]
INTEGERS = [0, 1, -1, 2, -2, 3, -3, 7, -7, 100, -100, 55, 13, -13, 120]

UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "square": torch.square,
    "reciprocal": torch.reciprocal,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "exp2": torch.exp2,
    "log2": torch.log2,
    "log10": torch.log10,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "erfc": torch.erfc,
    "lgamma": torch.lgamma,
    "relu": torch.relu,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": torch.round,
    "frac": torch.frac,
    "isnan": torch.isnan,
    "isinf": torch.isinf,
    "isfinite": torch.isfinite,
    "signbit": torch.signbit,
    "logical_not": torch.logical_not,
}
BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "div_trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "div_floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "fmin": torch.fmin,
    "fmax": torch.fmax,
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "nextafter": torch.nextafter,
    "pow": torch.pow,
    "logaddexp": torch.logaddexp,
    "copysign": torch.copysign,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}
BITWISE = {
    "bitwise_and": torch.bitwise_and,
    "bitwise_or": torch.bitwise_or,
    "bitwise_xor": torch.bitwise_xor,
    "shift_left": torch.bitwise_left_shift,
    "shift_right": torch.bitwise_right_shift,
}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def run(kernel: Pointwise, target: Target, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
    CompiledKernel(kernel, target)(*(t.numpy() for t in [*inputs, *outputs]))


def all_at_once(target: Target, table: dict[str, Callable[..., torch.Tensor]], inputs: list[torch.Tensor]) -> None:
    """Check every operation of the table in one kernel with an output each."""
    program = [Instruction("input", (), name_of(x.dtype), (i,)) for i, x in enumerate(inputs)]
    arguments = tuple(range(len(inputs)))
    expected = {name: function(*inputs) for name, function in table.items()}
    outputs = [torch.zeros_like(value) for value in expected.values()]
    for name, value in expected.items():
        program.append(Instruction(name, arguments, name_of(value.dtype)))
    results = range(len(inputs), len(program))
    streams = [[Stream(name_of(x.dtype), x.stride()) for x in group] for group in (inputs, outputs)]
    kernel = pointwise_kernel(inputs[0].shape, *streams, program, results, target)
    run(kernel, target, inputs, outputs)
    for (name, value), output in zip(expected.items(), outputs, strict=True):
        torch.testing.assert_close(
            output, value, rtol=3e-6, atol=3e-7, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float_operations(target: Target, dtype: torch.dtype) -> None:
    x, y = (g.reshape(-1).contiguous() for g in torch.meshgrid(*[torch.tensor(FLOATS, dtype=dtype)] * 2, indexing="ij"))
    all_at_once(target, UNARY, [x])
    all_at_once(target, BINARY, [x, y])


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_integer_operations(target: Target, dtype: torch.dtype) -> None:
    x, y = (g.reshape(-1) for g in torch.meshgrid(*[torch.tensor(INTEGERS, dtype=dtype)] * 2, indexing="ij"))
    x, y = x[y != 0].contiguous(), y[y != 0].contiguous()
    floats = {
        "reciprocal",
        "pow",
        "frac",
        "nextafter",
        "logaddexp",
        "hypot",
        "erfc",
        "copysign",
        "atan2",
        "lgamma",
    }
    all_at_once(target, {k: f for k, f in UNARY.items() if k not in floats}, [x])
    all_at_once(target, {k: f for k, f in BINARY.items() if k not in floats}, [x, y])
    all_at_once(target, BITWISE, [x, y.abs() % 7])


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
def test_every_cast(target: Target) -> None:
    dtypes = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
    for source in dtypes:
        if source == "bfloat16":
            continue  # numpy has none; it is reached as the middle of a chain below
        x = torch.tensor([0, 1, 2, 3, 5, 7, 100, 64, 33, 12, 1, 0, 9, 8, 4, 90, 77]).to(getattr(torch, source))
        program = [Instruction("input", (), source, (0,))]
        outputs = []
        for wanted in dtypes:
            program.append(Instruction("cast", (0,), wanted))
            if wanted == "bfloat16":
                program.append(Instruction("cast", (len(program) - 1,), "float32"))
            outputs.append(torch.zeros(len(x), dtype=getattr(torch, program[-1].dtype)))
        results = [i for i, s in enumerate(program) if s.op == "cast" and s.dtype != "bfloat16"]
        streams = [[Stream(name_of(t.dtype), (1,)) for t in group] for group in ([x], outputs)]
        run(pointwise_kernel(x.shape, *streams, program, results, target), target, [x], outputs)
        for output, wanted in zip(outputs, dtypes, strict=True):
            torch.testing.assert_close(output, x.to(getattr(torch, wanted)).to(output.dtype), rtol=0, atol=0)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
def test_half_precision_rounds_after_each_operation(target: Target) -> None:
    x, y = torch.randn(100).half(), torch.randn(100).half()
    program = [
        Instruction("input", (), "float16", (0,)),
        Instruction("input", (), "float16", (1,)),
        Instruction("mul", (0, 1), "float16"),
        Instruction("add", (2, 1), "float16"),
    ]
    out = torch.zeros(100).half()
    stream = Stream("float16", (1,))
    run(pointwise_kernel((100,), [stream] * 2, [stream], program, [3], target), target, [x, y], [out])
    torch.testing.assert_close(out, x * y + y, rtol=0, atol=0)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
def test_bfloat16_rounds_half_to_even(target: Target) -> None:
    upper = torch.arange(-(2**15), 2**15, dtype=torch.int32) << 16
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=torch.int32)
    x = (upper.reshape(-1, 1) | lower).reshape(-1).view(torch.float32)
    program = [Instruction("input", (), "float32", (0,)), Instruction("cast", (0,), "bfloat16")]
    program.append(Instruction("cast", (1,), "float32"))
    out, stream = torch.zeros_like(x), Stream("float32", (1,))
    run(pointwise_kernel(x.shape, [stream], [stream], program, [2], target), target, [x], [out])
    expected = x.bfloat16().float()
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(0.5), expected.nan_to_num(0.5))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
def test_causal_mask_from_indices(target: Target) -> None:
    scores = torch.randn(3, 37, 41)
    program = [
        Instruction("input", (), "float32", (0,)),
        Instruction("index", (), "int64", (1,)),
        Instruction("index", (), "int64", (2,)),
        Instruction("ge", (1, 2), "bool"),
        Instruction("constant", (), "float32", (float("-inf"),)),
        Instruction("where", (3, 0, 4), "float32"),
    ]
    out = torch.zeros_like(scores)
    stream = Stream("float32", scores.stride())
    run(pointwise_kernel(scores.shape, [stream], [stream], program, [5], target), target, [scores], [out])
    mask = torch.ones(37, 41).tril().bool()
    torch.testing.assert_close(out, scores.masked_fill(~mask, float("-inf")), rtol=0, atol=0)


@given(st.data())
def test_views_and_broadcasts(data: Any) -> None:
    rank = data.draw(st.integers(0, 4))
    shape = tuple(data.draw(st.sampled_from([1, 2, 3, 7, 16, 17, 33])) for _ in range(rank))
    target = data.draw(st.sampled_from(TARGETS))
    order = data.draw(st.permutations(range(rank)))
    kept = [data.draw(st.booleans()) for _ in range(rank)]
    x = torch.randn([shape[d] for d in order]).permute([order.index(d) for d in range(rank)])
    y = torch.randn([n if keep else 1 for n, keep in zip(shape, kept, strict=True)]).expand(shape)
    out = torch.zeros(shape)
    program = [
        Instruction("input", (), "float32", (0,)),
        Instruction("input", (), "float32", (1,)),
        Instruction("add", (0, 1), "float32"),
        Instruction("gelu", (2,), "float32"),
    ]
    streams = [Stream("float32", x.stride()), Stream("float32", y.stride())]
    kernel = pointwise_kernel(shape, streams, [Stream("float32", out.stride())], program, [3], target)
    run(kernel, target, [x, y], [out])
    torch.testing.assert_close(out, torch.nn.functional.gelu(x + y), rtol=2e-6, atol=1e-6)


@given(st.data())
def test_layout_changes(data: Any) -> None:
    rank = data.draw(st.integers(2, 4))
    shape = tuple(data.draw(st.sampled_from([1, 3, 8, 16, 19, 40, 65])) for _ in range(rank))
    dtype = data.draw(st.sampled_from([torch.float32, torch.int8, torch.int64, torch.bool, torch.float16]))
    target = data.draw(st.sampled_from(TARGETS))
    x = torch.randint(-9, 9, shape).to(dtype).permute(*data.draw(st.permutations(range(rank))))
    out = torch.zeros(x.shape, dtype=dtype)
    kernel = copy_kernel(x.shape, name_of(dtype), x.stride(), out.stride(), target)
    run(kernel, target, [x], [out])
    assert torch.equal(out, x)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.isa)
def test_fill_and_frame(target: Target) -> None:
    out = torch.zeros(5, 2, 33)
    run(fill_kernel((5, 33), "float32", (66, 1), 2.5, target), target, [], [out])
    assert torch.equal(out[:, 0], torch.full((5, 33), 2.5))
    assert torch.equal(out[:, 1], torch.zeros(5, 33))
    framed = torch.ones(2, 9, 11, 24)
    CompiledKernel(FillFrame((2, 9, 11, 24), (1, 2, 3, 0), "float32"), target)(framed.numpy())
    inside = torch.nn.functional.pad(torch.ones(2, 6, 8, 24), (0, 0, 3, 0, 1, 2))
    assert torch.equal(framed, inside)


def test_every_operation_is_known_and_errors_name_the_remedy() -> None:
    tested = {*UNARY, *BINARY, *BITWISE, "cast", "where", "gelu"}
    elsewhere = {"bitwise_not", "clamp", "nan_to_num", "quantize", "dequantize", "quantized_add", *ACTIVATIONS}
    assert set(POINTWISE) == tested | elsewhere
    with pytest.raises(InvalidInput, match=r"^pointwise operation must be one of \[.*\], not 'nope'$"):
        pointwise_kernel((1,), [], [], [Instruction("nope", (), "float32")], [0], TARGETS[0])
    with pytest.raises(InvalidInput, match=r"^pointwise arguments must be earlier than 0, not \(0,\)$"):
        pointwise_kernel((1,), [], [], [Instruction("abs", (0,), "float32")], [0], TARGETS[0])
