"""Generated C computes what the quantised Program computes, to the bit: op by op, in random shapes."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fxpress.backends.systolic.gemmini import Parameters
from fxpress.ops import fxpress
from gemmini_host import check_c, conv_of, program_of, random_int8
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

SMALL = Parameters(dim=4, bank_num=2, bank_rows=64, acc_rows=32, mvin_scale=False)
FEW = settings(max_examples=2)  # capturing takes a second: a program holds several cases

Case = tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]


def check(*cases: Case, parameters: Parameters | None = None) -> str:
    """`check_c` of one program that does all cases, in a folder of its own, for Hypothesis calls a test many times."""

    def all_of(*tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        return tuple(function(*(next(left) for _ in shapes)) for function, shapes in cases)

    with tempfile.TemporaryDirectory() as folder:
        program = program_of(all_of, *(shape for _, shapes in cases for shape in shapes))
        return check_c(program, Path(folder), parameters=parameters)


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    kernel = draw(st.integers(1, 4))
    pads = st.integers(0, kernel - 1)
    before = draw(pads)
    depthwise = draw(st.booleans())
    channels = draw(st.integers(2, 5))
    function = conv_of(
        channels, channels if depthwise else draw(st.integers(1, 6)), kernel,
        stride=draw(st.integers(1, 3)), padding=[before, draw(pads), before, draw(pads)],
        dilation=1 if depthwise else draw(st.integers(1, 2)), groups=channels if depthwise else 1,
        low=draw(st.sampled_from([-128, 0, -100, 3])), high=draw(st.sampled_from([127, 100])),
    )  # fmt: skip
    return function, ((draw(st.integers(1, 2)), draw(st.integers(7, 9)), draw(st.integers(7, 10)), channels),)


@FEW
@given(st.lists(convolutions(), min_size=6, max_size=6))
def test_convolutions(cases: list[Case]) -> None:
    check(*cases)


@pytest.mark.parametrize("stride", [2, 4])
def test_max_pools_after_convolutions(stride: int) -> None:
    cases: list[Case] = []
    merged = 0
    for size, relu, depthwise, ceil_mode in itertools.product((1, 2, 3, 4), *[(False, True)] * 3):
        conv = conv_of(3, 3, groups=3 if depthwise else 1, padding=1, low=0 if relu else -128)
        rest = ([size] * 2, [stride] * 2, [size // 2] * 2, [1, 1], ceil_mode, True)
        cases.append((lambda x, conv=conv, rest=rest: fxpress.quantized_max_pool(conv(x), *rest), ((1, 9, 8, 3),)))
        merged += max(size, stride) <= 3 and not ceil_mode and (relu or size == 1)
    assert check(*cases).count("for (int n") == len(cases) - merged


@st.composite
def pools(draw: st.DrawFn) -> Case:
    kernel = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    stride, ceil_mode = [draw(st.integers(1, 3))] * 2, draw(st.booleans())
    pads = [size // 2 for size in kernel]
    if draw(st.booleans()):
        rest = (kernel, stride, pads, ceil_mode, 0.03, 0, 0.021, 0, -128, 127, "F", True)
        return lambda x: fxpress.quantized_avg_pool(x, *rest), ((2, 7, 9, 3),)
    dilation = [draw(st.integers(1, 2))] * 2
    return lambda x: fxpress.quantized_max_pool(x, kernel, stride, pads, dilation, ceil_mode, True), ((2, 7, 9, 3),)


@FEW
@given(st.lists(pools(), min_size=6, max_size=6))
def test_pools_in_plain_c(cases: list[Case]) -> None:
    check(*cases)


@pytest.mark.parametrize("average", [True, False])
def test_pools_of_one_dimension(average: bool, tmp_path: Path) -> None:
    def pool(x: Tensor) -> Tensor:
        if average:
            return fxpress.quantized_avg_pool(x, [3], [2], [1], False, 0.03, 0, 0.02, 0, 0, 127, "F", True)
        return fxpress.quantized_max_pool(x, [3], [2], [1], [1], False, True)

    check_c(program_of(pool, (2, 9, 5)), tmp_path)


@pytest.mark.parametrize(
    ("shape", "scales", "call"),
    [
        ((2, 4, 4, 5), (0.03, 0.03), "tiled_global_average_auto"),
        ((2, 4, 4, 5), (0.03, 0.02), "tiled_matmul_auto"),
        ((3, 2, 5, 3), (0.03, 0.03), "tiled_matmul_auto"),
        ((2, 9, 3), (0.03, 0.01), "tiled_matmul_auto"),
    ],
)
def test_global_averages_are_on_the_array(
    shape: tuple[int, ...], scales: tuple[float, float], call: str, tmp_path: Path
) -> None:
    sizes = list(shape[1:-1])

    def mean(x: Tensor) -> Tensor:
        rest = (scales[0], 0, scales[1], 0, -128, 127, "F", True)
        return fxpress.quantized_avg_pool(x, sizes, sizes, [0] * len(sizes), False, *rest)

    assert call in check_c(program_of(mean, shape), tmp_path)


@st.composite
def linears(draw: st.DrawFn) -> Case:
    m, k, n = draw(st.integers(1, 9)), draw(st.integers(1, 40)), draw(st.integers(1, 20))
    weight, bias = random_int8(n, k).clamp(min=-127), torch.randint(-5000, 5000, (n,), dtype=torch.int32)
    operands, relu = (weight, bias, None, torch.full((n,), 0.004), 0.3, 0), draw(st.booleans())
    if draw(st.booleans()):
        activation = "relu" if relu else "none"
        return lambda x: fxpress.quantized_linear_float(x, *operands, activation), ((1, m, k),)
    rest = (1.0, 0, 0.09 * k**0.5, 0, 0 if relu else -128, 127, "F")
    return lambda x: fxpress.quantized_linear(x, *operands, *rest), ((1, m, k),)


@FEW
@given(st.lists(linears(), min_size=6, max_size=6))
def test_linear_layers(cases: list[Case]) -> None:
    check(*cases)


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("shapes", [((2, 3, 4, 5), (2, 3, 5, 7)), ((2, 3, 4), (4, 6)), ((3, 4), (1, 4, 5))])
def test_products(shapes: tuple[tuple[int, ...], tuple[int, ...]], real: bool, tmp_path: Path) -> None:
    def product(a: Tensor, b: Tensor) -> Tensor:
        if real:
            return fxpress.quantized_matmul_float(a, b, 0.02, 0, 0.03, 0)
        return fxpress.quantized_matmul(a, b, 0.02, 0, 0.03, 0, 0.06, 0, -128, 127, "F")

    assert "tiled_matmul_auto" in check_c(program_of(product, *shapes), tmp_path)


SCALES = st.floats(0.01, 0.09)


@st.composite
def sums(draw: st.DrawFn) -> Case:
    a, b, y = draw(SCALES), draw(SCALES), draw(SCALES)
    rest = (a, 0, draw(st.sampled_from([a, b])), 0, y, 0, draw(st.sampled_from([-128, 0])), 127, "F")
    return lambda p, q: fxpress.quantized_add(p, q, *rest), ((2, 3, 5), (2, 3, 5))


@FEW
@given(st.lists(sums(), min_size=6, max_size=6))
def test_sums(cases: list[Case]) -> None:
    text = check(*cases)
    assert text.count("tiled_resadd_auto") + text.count("saturate(product") == len(cases)


@st.composite
def requantized_sums(draw: st.DrawFn) -> Case:
    x, u, y = draw(SCALES), draw(SCALES), draw(SCALES)

    def sum_(p: Tensor, q: Tensor) -> Tensor:
        scaled = fxpress.requantize(p, x, 0, u, 0, -128, 127, "F")
        bounded = fxpress.requantize(q, x, 0, u, 0, 5, 90, "F")
        return fxpress.quantized_add(scaled, bounded, u, 0, u, 0, y, 0, -128, 127, "F")

    return sum_, ((7, 11), (7, 11))


@FEW
@given(st.lists(requantized_sums(), min_size=6, max_size=6), st.sampled_from([Parameters(), SMALL]))
def test_requantised_operands_of_sums(cases: list[Case], parameters: Parameters) -> None:
    check(*cases, parameters=parameters)


def test_moves(tmp_path: Path) -> None:
    def moves(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        joined = torch.cat([x, y.permute(0, 2, 1), x[:, 1:3]], 1)
        return joined, joined.reshape(-1, 4)[:, ::2], x[1], x, joined.reshape(4, -1), x[:1].expand(3, -1, -1)

    check_c(program_of(moves, (2, 3, 4), (2, 4, 3)), tmp_path)


def test_floats_leave_by_dequantising(tmp_path: Path) -> None:
    def real(x: Tensor) -> Tensor:
        return fxpress.dequantize(x, 0.3, 0).permute(0, 3, 1, 2).reshape(2, -1)

    check_c(program_of(real, (2, 3, 4, 5)), tmp_path)


def test_memory_is_shared_by_values_that_never_meet(tmp_path: Path) -> None:
    convs = [conv_of(4, 4, padding=1) for _ in range(6)]

    def chain(x: Tensor) -> Tensor:
        for conv in convs:
            x = conv(x)
        return x

    text = check_c(program_of(chain, (1, 8, 8, 4)), tmp_path)
    assert "static elem_t memory[512]" in text


def test_one_by_one_convolutions_are_products(tmp_path: Path) -> None:
    text = check_c(program_of(conv_of(5, 7, 1, low=0), (2, 3, 4, 5)), tmp_path)
    assert "tiled_matmul_auto(24, 7, 5," in text
    assert "tiled_conv_auto" not in text


def test_one_by_one_convolutions_with_float_results(tmp_path: Path) -> None:
    weight, bias, scale = random_int8(3, 5, 1, 1), torch.tensor([9, -8, 7], dtype=torch.int32), torch.full((3,), 0.1)
    rest = (scale, 0.1, 0, [1, 1], [0, 0, 0, 0], [1, 1], 1, "relu", True)
    program = program_of(lambda x: fxpress.quantized_conv_float(x, weight, bias, None, *rest), (2, 3, 4, 5))
    assert "tiled_matmul_auto(24, 3, 5," in check_c(program, tmp_path)


def test_names_that_c_has_itself(tmp_path: Path) -> None:
    def register(memory: Tensor, product: Tensor) -> Tensor:
        return fxpress.quantized_add(memory, product, 0.3, 0, 0.2, 0, 0.1, 0, -128, 127, "F")

    check_c(program_of(register, (3, 5), (3, 5)), tmp_path)
