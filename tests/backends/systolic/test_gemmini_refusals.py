"""What Gemmini cannot compute is refused with the node, its source line, the reason and a remedy."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from fxpress import Program, capture
from fxpress.backends.systolic.gemmini import Parameters, emit
from fxpress.errors import InvalidInput, Unsupported
from fxpress.ops import fxpress
from fxpress.testing import trace
from gemmini_host import conv_of, program_of, random_int8
from torch import Tensor, nn

IMAGE = (1, 9, 9, 4)
TABLE = torch.arange(-128, 128, dtype=torch.int8)
QUANTIZE = 'quantise with fxpress.quantize(model, "int8-gemmini", ..., profitable="off")'
HOST = "keep the layer in float32 with ignore=, and compute it elsewhere"
SUMS = "call fxpress.backends.systolic.gemmini.prepare(program) first"
LAST = "run the passes of the pipeline 'default', which put channels last"

CONVOLUTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "x_zero": ({"x_zero": 3}, "x_zero is 3, and Gemmini has no zero points", QUANTIZE),
    "y_zero": ({"y_zero": -1}, "y_zero is -1, and Gemmini has no zero points", QUANTIZE),
    "mode": ({"mode": "I"}, "it requantises in fixed point (mode 'I'), and Gemmini in float32", QUANTIZE),
    "scales": (
        {"weight_scale": torch.arange(1, 5) / 100},
        "its weights have a scale for each output channel, and Gemmini has one a layer", QUANTIZE,
    ),
    "groups": ({"groups": 2}, "it has 2 groups, and Gemmini has 1 or as many as channels in and out", HOST),
    "depthwise and dilated": (
        {"groups": 4, "dilation": [2, 2]}, "it is depthwise and dilated, and Gemmini has no call for both", HOST,
    ),
    "kernel": ({"kernel": (3, 2)}, "its kernel is 3x2, and Gemmini's are square", HOST),
    "stride": ({"stride": [1, 2]}, "its stride is 1x2, and Gemmini's are square", HOST),
    "dilation": ({"dilation": [1, 2]}, "its dilation is 1x2, and Gemmini's are square", HOST),
    "padding": ({"padding": [1, 1, 0, 1]}, "its padding is 1x0, and Gemmini's are square", HOST),
    "large padding": (
        {"padding": [3, 3, 3, 3]}, "its padding is [3, 3, 3, 3], and Gemmini's is smaller than the kernel", HOST,
    ),
    "channels first": ({"channels_last": False}, "its channels are first", LAST),
}  # fmt: skip


def refused(program: Program, **options: Any) -> str:
    """The message of the refusal, one line a node below the first."""
    with pytest.raises(
        Unsupported, match=r"^every op must be one that Gemmini computes, and these are not:\n"
    ) as error:
        emit(program, **options)
    return str(error.value).split("\n", 1)[1]


def line_of(op: str, why: str, remedy: str) -> str:
    """What the line of a refused node looks like."""
    return rf"^  %{op}(_\d+)?: (fxpress|aten)\.{op}\.default: {re.escape(why)}; {re.escape(remedy)}$"


def test_convolutions() -> None:
    """One program of all cases: every node is listed, in order."""
    functions = []
    for changed, _, _ in CONVOLUTIONS.values():
        options = {"kernel": 3, **changed}
        functions.append(conv_of(4, 4, options.pop("kernel"), **options))

    def all_of(x: Tensor, first: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            f(first if "channels_last" in c else x)
            for f, (c, _, _) in zip(functions, CONVOLUTIONS.values(), strict=True)
        )

    lines = refused(program_of(all_of, IMAGE, (1, 4, 9, 9))).split("\n")
    for line, (_, why, remedy) in zip(lines, CONVOLUTIONS.values(), strict=True):
        assert re.search(line_of("quantized_conv", why, remedy), line)


def test_convolutions_with_residuals() -> None:
    program = program_of(conv_of(4, 4), IMAGE, (1, 7, 7, 4))
    why = "a convolution cannot add a residual before it rounds"
    assert re.search(line_of("quantized_conv", why, SUMS), refused(program))


def test_strides_that_no_tile_of_the_scratchpad_holds() -> None:
    small = Parameters(dim=4, bank_num=1, bank_rows=16, acc_rows=8)
    assert "stride 3 needs more scratchpad than there is; use an array with more rows" in refused(
        program_of(conv_of(2, 2, 3, stride=3), (1, 9, 9, 2)), parameters=small
    )


def test_sizes_beyond_sixteen_bits() -> None:
    why = "a size is above 65535, or its stride above 255"
    program = program_of(conv_of(1, 1, 1, stride=2), (1, 1, 65537, 1))
    assert re.search(line_of("quantized_conv", why, HOST), refused(program))


def test_symbolic_sizes() -> None:
    sizes = {"x": {0: torch.export.Dim("n", min=2, max=8)}}

    class Requantize(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return fxpress.requantize(x, 0.1, 0, 0.2, 0, -128, 127, "F")

    program = capture(Requantize(), (random_int8(4, 3),), dynamic_shapes=sizes)
    with pytest.raises(InvalidInput, match=r"^program must have fixed sizes, not symbolic ones; capture it without"):
        emit(program)


def test_linear_layers_with_residuals() -> None:
    weight, bias, scale = random_int8(5, 6).clamp(min=-127), torch.zeros(5, dtype=torch.int32), torch.full((5,), 0.1)

    def linear(x: Tensor, r: Tensor) -> Tensor:
        return fxpress.quantized_linear(x, weight, bias, r, scale, 0.3, 0, 0.1, 0, 0.1, 0, -128, 127, "F")

    why = "a linear layer cannot add a residual before it rounds"
    assert re.search(line_of("quantized_linear", why, SUMS), refused(program_of(linear, (2, 6), (2, 5))))


def test_computed_weights() -> None:
    bias, scale = torch.zeros(5, dtype=torch.int32), torch.full((5,), 0.1)
    program = program_of(
        lambda x, w: fxpress.quantized_linear(x, w, bias, None, scale, 0.3, 0, 1.0, 0, 0.1, 0, 0, 127, "F"),
        (2, 6),
        (5, 6),
    )
    why, remedy = "%args_1 is computed, and must be a constant", "run the passes of the pipeline 'default'"
    assert re.search(line_of("quantized_linear", why, remedy), refused(program))


def test_activations_in_float() -> None:
    weight, bias, scale = random_int8(5, 6).clamp(min=-127), torch.zeros(5, dtype=torch.int32), torch.full((5,), 0.1)

    def linear(x: Tensor) -> Tensor:
        return fxpress.quantized_linear_float(x, weight, bias, None, scale, 0.3, 0, "gelu")

    why = "it adds a residual or has an activation in float32"
    assert re.search(line_of("quantized_linear_float", why, HOST), refused(program_of(linear, (2, 6))))


OTHERS: list[tuple[Any, list[tuple[int, ...]], str, str, str]] = [
        (
            lambda x: fxpress.lookup(x, TABLE), [(2, 3)],
            "lookup", "Gemmini has no such op", HOST,
        ),
        (
            lambda a, b: fxpress.quantized_add(a, b, 0.1, 0, 0.2, 0, 0.3, 0, -128, 127, "F"), [(2, 3), (3,)],
            "quantized_add", "its operands have the shapes (2, 3) and (3,)", "expand the operand first",
        ),
        (
            lambda a, b: fxpress.quantized_add(a, b, 0.1, 4, 0.2, 0, 0.3, 0, -128, 127, "F"), [(2, 3), (2, 3)],
            "quantized_add", "a_zero is 4, and Gemmini has no zero points", QUANTIZE,
        ),
        (
            lambda x: fxpress.requantize(x, 0.1, 0, 0.2, 0, -128, 127, "I"), [(2, 3)],
            "requantize", "it requantises in fixed point (mode 'I'), and Gemmini in float32", QUANTIZE,
        ),
        (
            lambda x: fxpress.quantized_max_pool(x, [2, 2], [2, 2], [0, 0], [1, 1], False, False), [(1, 3, 8, 8)],
            "quantized_max_pool", "its channels are first", LAST,
        ),
        (
            lambda x: fxpress.quantized_avg_pool(x, [2], [2], [0], False, 1.0, 0, 1.0, 0, 0, 127, "F", False),
            [(1, 3, 8)], "quantized_avg_pool", "its channels are first", LAST,
        ),
        (
            lambda a, b: fxpress.quantized_matmul(a, b, 0.1, 0, 0.1, 0, 0.1, 0, 0, 127, "F"), [(2, 3, 4), (5, 1, 4, 2)],
            "quantized_matmul", "its operands are no matrices, or repeat along their leading dims",
            "expand and reshape them",
        ),
        (
            lambda x: fxpress.quantize(fxpress.dequantize(x, 0.1, 0), 0.2, 0), [(2, 3)],
            "quantize", "it computes with floats",
            "keep it out of the model, and compute it before or after the array",
        ),
    ]  # fmt: skip


def test_other_ops() -> None:
    def all_of(*tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        return tuple(function(*(next(left) for _ in shapes)) for function, shapes, *_ in OTHERS)

    program = program_of(all_of, *(shape for _, shapes, *_ in OTHERS for shape in shapes))
    for line, (_, _, op, why, remedy) in zip(refused(program).split("\n"), OTHERS, strict=True):
        assert re.search(line_of(op, why, remedy), line)


def test_ops_with_several_results() -> None:
    program = program_of(lambda x: torch.cat(torch.split(x, 2, 1), 0), (2, 4))
    why, remedy = "its result is no tensor", "use ops with one result, such as slices"
    assert re.search(line_of("split_with_sizes", why, remedy), refused(program).split("\n")[-1])


def test_convolutions_with_float_results() -> None:
    weight, bias, scale = random_int8(2, 4, 3, 3), torch.zeros(2, dtype=torch.int32), torch.full((2,), 0.1)
    rest = (scale, 0.1, 0, [1, 1], [0, 0, 0, 0], [1, 1], 1, "none", True)
    program = program_of(lambda x: fxpress.quantized_conv_float(x, weight, bias, None, *rest), IMAGE)
    why = "it is a convolution with a float32 result, and Gemmini's results are int8"
    remedy = "have a linear layer or a 1x1 convolution give the model's results"
    assert re.search(line_of("quantized_conv_float", why, remedy), refused(program))


def test_float_programs_name_every_op() -> None:
    lines = refused(trace(nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)), torch.randn(2, 4))).split("\n")
    heads = (r"  %linear: aten\.linear\.default at \S*\(0\): ", r"  %softmax: aten\.softmax\.int at \S*\(1\): ")
    assert all(re.match(head, line) for head, line in zip(heads, lines, strict=True))
    assert all(line.endswith("; keep it out of the model, and compute it before or after the array") for line in lines)


def test_inputs_of_other_types() -> None:
    program = trace(lambda x, i: (x, i), random_int8(3), torch.arange(3))
    with pytest.raises(Unsupported, match=r"^%\w+ must be int8 or float32 for Gemmini, not int64; convert it outside"):
        emit(program)


@pytest.mark.parametrize("name", ["", "2nd", "my net", "netz/weg", "größe"])
def test_names(name: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^name must be an identifier of C, not {re.escape(repr(name))}$"):
        emit(program_of(conv_of(2, 2, 1), (1, 2, 2, 2)), name=name)
