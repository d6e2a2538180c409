"""Quantised elementwise ops, tables and embeddings, compiled: equal to their definition in every bit."""

import math

import fxpress
import pytest
import torch
from fxpress.backends.tvm.kernels.harness import CompiledKernel
from fxpress.backends.tvm.kernels.pointwise import pointwise_kernel
from fxpress.backends.tvm.kernels.pointwise_program import Instruction, Stream
from fxpress.errors import Unsupported
from fxpress.target import Target
from fxpress.testing import trace
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_cases import TARGETS, integers
from single_op import check_all, check_equal, single_op

ops = torch.ops.fxpress
SPECIAL = torch.tensor([math.nan, math.inf, -math.inf, 3e38, -3e38, 0.125, -0.125, 0.375, -0.0, 1e-40])


def floats(*shape):
    """Values that exceed the range of 8 bits on both sides, many of them ties, and special ones."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 25
    x = torch.where(x > 0, (x * 8).round() / 8, x)
    flat = x.flatten()
    flat[: min(len(SPECIAL), len(flat))] = SPECIAL[: len(flat)]
    return x


def quantize(x, scale=0.25, zero=-7):
    return ops.quantize.default, {"x": x, "scale": scale, "zero_point": zero}


def add(a, b, mode="F", low=-128, high=127, scales=(0.03, 0.07, 0.06), zeros=(4, -9, 5)):
    a_scale, b_scale, y_scale = scales
    a_zero, b_zero, y_zero = zeros
    arguments = {"a": a, "b": b, "a_scale": a_scale, "a_zero": a_zero, "b_scale": b_scale, "b_zero": b_zero}
    return ops.quantized_add.default, {
        **arguments, "y_scale": y_scale, "y_zero": y_zero, "low": low, "high": high, "mode": mode
    }  # fmt: skip


def requantize(x, mode, x_scale=0.1, y_scale=0.25):
    numbers = {"x_scale": x_scale, "x_zero": 3, "y_scale": y_scale, "y_zero": -9, "low": -100, "high": 127}
    return ops.requantize.default, {"x": x, **numbers, "mode": mode}


EVERY = torch.arange(-128, 128).to(torch.int8)
TABLE = {"table": integers((256,), seed=3)}
CASES = [
    quantize(floats(2, 3, 5, 37)),
    quantize(floats(70), 0.1, 127),
    quantize(floats(3, 1), 1e-3, -128),
    (ops.dequantize.default, {"x": integers((3, 41)), "scale": 0.0123, "zero_point": -99}),
    add(integers((3, 5, 41)), integers((3, 1, 41), seed=1)),
    add(EVERY[:, None], EVERY, scales=(0.5, 0.25, 0.5), zeros=(-128, 127, 0)),
    add(integers((2, 70)), integers((70,), seed=1), "I", low=-90, high=100),
    add(EVERY[:, None], EVERY, "I", scales=(0.5, 0.25, 0.5), zeros=(127, -128, 3)),
    requantize(EVERY, "F"),
    requantize(integers((3, 7)), "I"),
    *((ops.lookup.default, {"x": integers(shape), **TABLE}) for shape in [(2000,), (3, 5, 41), (7,), (2, 16)]),
    (
        ops.quantized_embedding.default,
        {"weight": integers((17, 35)), "scale": torch.rand(17), "indices": torch.randint(0, 17, (3, 6))},
    ),
]


@pytest.mark.parametrize("target", TARGETS)
def test_cases(target):
    check_all(CASES, target)


@given(
    size=st.lists(st.sampled_from([1, 3, 17, 64]), min_size=1, max_size=3),
    scales=st.tuples(*[st.floats(2**-10, 2**10)] * 3),
    zeros=st.tuples(*[st.integers(-128, 127)] * 3),
    mode=st.sampled_from("FI"),
    target=st.sampled_from(TARGETS),
)
@settings(max_examples=5)
def test_additions(size, scales, zeros, mode, target):
    """Of all pairs of integers that occur in a tensor and one of the same shape or of ones."""
    b = integers([1 if s == 3 else s for s in size], seed=2)
    check_equal(*add(integers(size), b, mode, scales=scales, zeros=zeros), target)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("target", ["cpu", "cpu{isa=avx2}"])
def test_images_become_channels_last_in_one_pass(channels, target):
    """Into a border, too: strides as a convolution with padding reads them."""
    n, height, width = 2, 5, 21
    x = floats(n, channels, height, width)
    program = [Instruction("input", (), "float32", (0,)), Instruction("quantize", (0,), "int8", (0.25, 3))]
    strides = [height * width * channels, width, 1]
    source = Stream("float32", (strides[0], height * width, *strides[1:]))
    padded = torch.full((n, height + 2, width + 2, channels), 55, dtype=torch.int8)
    inside = padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2)
    where = Target.parse(target)
    kernel = pointwise_kernel(x.shape, [source], [Stream("int8", inside.stride())], program, [1], where)
    start = (width + 3) * channels
    CompiledKernel(kernel, where)(x.numpy(), padded.flatten()[start:].numpy())
    assert torch.equal(inside, ops.quantize(x, 0.25, 3))
    border = padded.clone()
    border[:, 1:-1, 1:-1] = 55
    assert (border == 55).all()


@pytest.mark.parametrize("target", TARGETS)
def test_a_small_network(target):
    """Values pass between kernels, halos, views and a concatenation as they do between the definitions."""
    g = torch.Generator().manual_seed(0)
    weight = [torch.randint(-127, 128, s, generator=g).to(torch.int8) for s in [(20, 3, 3, 3), (20, 1, 3, 3)]]
    bias = [torch.randint(-500, 500, (20,), generator=g).int() for _ in weight]
    scale = [torch.rand(20, generator=g) * 0.01 + 0.001 for _ in weight]

    def conv(x, i, stride, groups):
        numbers = (0.05, -3, 0.0, 0, 0.4 if i == 0 else 0.15, -3, -128, 90, [stride] * 2, [1] * 4, [1, 1])
        return ops.quantized_conv(x, weight[i], bias[i], None, scale[i], *numbers, groups, "F", True)

    def model(image):
        x = ops.quantize(image.permute(0, 2, 3, 1), 0.05, -3)
        x = conv(x, 0, 2, 1)
        y = ops.lookup(conv(x, 1, 1, 20), TABLE["table"])
        x = torch.cat([ops.quantized_add(x, y, 0.4, -3, 0.2, 0, 0.5, 1, -128, 127, "F"), y], 3)
        x = ops.quantized_max_pool(x, [2, 2], [2, 2], [0, 0], [1, 1], False, True)
        pooled = ops.quantized_avg_pool(x, [4, 5], [4, 5], [0, 0], False, 0.5, 1, 0.1, 0, -128, 127, "F", True)
        return ops.dequantize(pooled.reshape(1, 40), 0.1, 0), x

    image = torch.randn(1, 3, 16, 20, generator=g)
    artifact = fxpress.compile(trace(model, image), pipeline="", target=target, self_test=False)
    for found, expected in zip(artifact(image), model(image), strict=True):
        assert torch.equal(torch.as_tensor(found), expected)
    conversions = [line for line in artifact.text().splitlines() if "copy: 8-bit integers" in line]
    assert len(conversions) == 1, "only the result is held without a bias"


def refused(case):
    with pytest.raises(Unsupported) as error:
        fxpress.compile(single_op(*case), pipeline="", self_test=False)
    return str(error.value)


def test_what_cannot_be_computed_exactly_is_refused():
    q = integers((2, 8))
    assert "its x must be torch.float32, not torch.float64" in refused(quantize(torch.ones(3).double()))
    assert "its zero_point must be within -128..127, not 128" in refused(quantize(torch.ones(3), zero=128))
    assert "its scale must be at least 2**-120 and finite, not 0.0" in refused(quantize(torch.ones(3), 0.0))
    assert "its low and high must be ordered and within -128..127, not 5 and 4" in refused(add(q, q, low=5, high=4))
    assert "its a must be torch.int8, not torch.int32" in refused(add(q.int(), q))
    assert "its x_scale and y_scale must differ less than 2**30 times, not 1e+20 and 0.25" in refused(
        requantize(q, "F", 1e20)
    )
    short = {"x": q, "table": integers((128,))}
    assert "its table must have shape (256,), not (128,)" in refused((ops.lookup.default, short))
    inputs = {"x": q, "a": integers((256,))}
    program = single_op(ops.lookup.default, {"x": inputs["x"], "table": inputs["a"]}, ("x", "table"))
    with pytest.raises(Unsupported, match="its table must be a constant"):
        fxpress.compile(program, pipeline="", self_test=False)
