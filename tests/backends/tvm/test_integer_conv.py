"""Quantised convolutions, compiled: equal to their definition in every bit."""

import math

import fxpress
import pytest
import torch
from fxpress.backends.tvm import TvmBackend
from fxpress.backends.tvm.kernels.base import Call, run_module
from fxpress.backends.tvm.kernels.conv_shape import ConvShape
from fxpress.backends.tvm.kernels.harness import build
from fxpress.backends.tvm.kernels.integer_conv import IntegerConv
from fxpress.backends.tvm.kernels.requantization import Requantization
from fxpress.errors import Unsupported
from fxpress.rewriter import Rewriter
from fxpress.target import Target
from hypothesis import given
from hypothesis import strategies as st
from integer_cases import TARGETS, VALUES, conv_case
from single_op import check_all, check_equal, program_of, single_op

CASES = [
    conv_case((1, 16, 7, 9), 33, (3, 3), padding=(1, 1, 1, 1)),
    conv_case((2, 6, 5, 5), 40, (1, 1), residual=True, low=-90, high=100),
    conv_case((1, 3, 15, 15), 32, (3, 3), stride=2, padding=(0, 1, 0, 1)),  # seven bytes a row, eight are read
    conv_case((2, 12, 6, 6), 18, (3, 3), groups=3, padding=(1, 1, 1, 1), mode="I"),
    conv_case((1, 8, 11), 5, (3,), dilation=2, padding=(2, 1), mode="I", residual=True),
    conv_case((1, 24, 6, 5), 20, (3, 3), mode="float", activation="relu6"),
    conv_case((2, 10, 4, 4), 20, (1, 1), mode="float", residual=True, channels_last=False),
    conv_case((2, 5, 9), 7, (3,), padding=(1, 2), residual=True, channels_last=False),
    conv_case((1, 6, 6, 6), 6, (3, 3), padding=(1, 1, 1, 1), groups=6, residual=True),
    conv_case((1, 64, 4, 4), 48, (1, 1), x_values="lowest", weight_values="highest"),
    conv_case((1, 64, 4, 4), 48, (1, 1), x_values="highest", weight_values="highest"),
    conv_case((1, 64, 4, 4), 48, (1, 1), x_values="highest", weight_values="lowest", mode="float"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_cases(target):
    artifact = check_all(CASES, target)
    assert artifact.text().count("integer-conv") == len(CASES) - 1


@st.composite
def cases(draw):
    """Convolutions of small, awkward sizes."""
    rank = draw(st.sampled_from([1, 2, 2]))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    pad = st.integers(0, 2)
    ic = groups * draw(st.sampled_from([1, 2, 3, 4, 7, 16, 33]))
    sizes = [draw(st.sampled_from([5, 7, 8, 13])) for _ in range(rank)]
    return conv_case(
        (draw(st.integers(1, 2)), ic, *sizes),
        groups * draw(st.sampled_from([1, 3, 6, 16, 37, 64])),
        [draw(st.sampled_from([1, 2, 3])) for _ in range(rank)],
        mode=draw(st.sampled_from(["F", "F", "I", "float"])),
        residual=draw(st.booleans()),
        channels_last=draw(st.sampled_from([True, True, False])),
        stride=draw(st.sampled_from([1, 1, 2, 3])),
        padding=[draw(pad) for _ in range(2 * rank)],
        dilation=draw(st.sampled_from([1, 1, 2])),
        groups=groups,
        x_values=draw(st.sampled_from(VALUES)),
        weight_values=draw(st.sampled_from(VALUES)),
        low=draw(st.sampled_from([-128, 0])),
    )


@given(case=cases(), target=st.sampled_from(TARGETS))
def test_any_convolution(case, target):
    check_equal(*case, target=target)


def test_one_convolution_writes_the_border_that_the_next_reads():
    first, second = conv_case((1, 8, 6, 6), 8, (1, 1)), conv_case((1, 8, 6, 6), 8, (3, 3), padding=(1, 1, 1, 1))
    program = program_of([first, second])
    rw = Rewriter(program)
    one, other = program.results
    rw.update(other, one, *other.args[1:])
    rw.output(other)
    lowered = TvmBackend().lower(program, Target.parse("cpu"))
    convolutions = [call for call in lowered.kernel_calls if isinstance(call.kernel, IntegerConv)]
    assert convolutions[0].views[-1] is convolutions[1].views[0]
    assert convolutions[1].views[0].fill == second[1]["x_zero"] + 128


def test_arena_has_room_to_read_beyond_its_last_value():
    """Pixels of three bytes are read in fours, the last one too."""
    lowered = TvmBackend().lower(single_op(*conv_case((1, 3, 8, 8), 4, (1, 1), residual=True)), Target.parse("cpu"))
    ends = [lifetime.storage.offset + lifetime.storage.bytes for lifetime in lowered.lifetimes]
    assert lowered.arena_bytes >= max(ends) + 3


def assembly(kernel, target):
    calls = [Call(kernel, tuple((i, 0) for i in range(len(kernel.operands()))))]
    return build(run_module(calls, len(kernel.operands())), target, kernel.extensions()).mod.inspect_source("s")


@pytest.mark.parametrize("target", ["cpu{isa=avx512}", "cpu{isa=avx2}"])
def test_largest_weights_that_do_not_saturate(target):
    """Two weights whose sum is 128 take the short way, beyond that the long one: both are exact."""
    cases = []
    for first, second in ((64, 64), (-127, -1), (127, -127), (127, 2), (-65, -64)):
        op, arguments = conv_case((1, 8, 4, 5), 24, (1, 1), mode="float", x_values="highest", activation="none")
        weight = torch.tensor([first, second], dtype=torch.int8).repeat(4).reshape(1, 8, 1, 1).expand(24, -1, -1, -1)
        cases.append((op, {**arguments, "weight": weight.contiguous()}))
    lowered = check_all(cases, target)
    assert lowered.text().count("integer-conv") == len(cases)


@pytest.mark.parametrize(("weight", "narrow"), [(64, True), (65, False)])
def test_small_weights_are_multiplied_as_bytes(weight, narrow):
    where = Target.parse("cpu{isa=avx2}")
    dense = (8 * 8 * 16, 8 * 16, 16)
    shape = ConvShape(batch=1, height=8, width=8, ic=16, oc=16, kernel=(1, 1), x_strides=dense, y_strides=dense)
    kernel = IntegerConv.choose(shape, Requantization(mode="F", channels=16), where)
    kernel = kernel.for_weights(kernel.pack(torch.full((16, 16, 1, 1), weight, dtype=torch.int8)))
    assert ("vpmaddubsw" in assembly(kernel, where)) is narrow


@pytest.mark.parametrize(
    ("target", "instruction", "register"),
    [
        ("cpu{isa=avx512,extensions=vnni}", "vpdpbusd", "%zmm"),
        ("cpu{isa=avx2,extensions=avxvnni}", "vpdpbusd", "%ymm"),
        ("cpu{isa=avx512}", "vpmaddwd", "%zmm"),
        ("cpu{isa=avx2}", "vpmaddwd", "%ymm"),
    ],
)
def test_inner_loop_is_dot_products(target, instruction, register):
    where = Target.parse(target)
    dense = (56 * 56 * 64, 56 * 64, 64)
    shape = ConvShape(
        batch=1,
        height=54,
        width=54,
        ic=64,
        oc=64,
        kernel=(3, 3),
        x_strides=dense,
        y_strides=(54 * 54 * 64, 54 * 64, 64),
    )
    kernel = IntegerConv.choose(shape, Requantization(mode="F", channels=64), where)
    products = [line for line in assembly(kernel, where).splitlines() if instruction in line]
    tile = kernel.tile
    assert len(products) >= tile.columns * tile.lines * tile.vectors * tile.unroll
    assert all(register in line for line in products)


def changed(name, value, **options):
    op, arguments = conv_case((1, 4, 5, 5), 4, (3, 3), **{"residual": True, **options})
    return op, {**arguments, name: value}


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (
            changed("weight", torch.zeros(4, 4, 3, 3, dtype=torch.uint8)),
            r"its weight must be torch.int8, not torch.uint8",
        ),
        (changed("low", -129), r"its low and high must be ordered and within -128\.\.127, not -129 and 127"),
        (changed("high", 4, low=5), r"its low and high must be ordered and within .* not 5 and 4"),
        (changed("x_zero", 128), r"its x_zero must be within -128\.\.127, not 128"),
        (changed("y_zero", -129), r"its y_zero must be within -128\.\.127, not -129"),
        (changed("y_scale", math.inf), r"its y_scale must be at least 2\*\*-120 and finite, not inf"),
        (changed("residual_scale", -1.0), r"its residual_scale must be at least 2\*\*-120 and finite"),
        (
            changed("bias", torch.full((4,), 2**31 - 1, dtype=torch.int32)),
            r"its sums may reach 21\d{8}, more than 32 bits",
        ),
        (changed("weight_scale", torch.zeros(4)), r"its scales must be positive, and so must be their products"),
        (
            changed("weight_scale", torch.full((4,), 1e15), mode="I"),
            r"the results less than 2\*\*30 times the sums",
        ),
    ],
)
def test_what_cannot_be_exact_is_refused(case, reason):
    with pytest.raises(Unsupported, match=reason):
        fxpress.compile(single_op(*case), pipeline="")


def test_weights_must_be_constants():
    op, arguments = conv_case((1, 4, 5, 5), 4, (3, 3))
    with pytest.raises(Unsupported, match="its weight must be a constant"):
        fxpress.compile(single_op(op, arguments, inputs=("x", "weight")), pipeline="")
