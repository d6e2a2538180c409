"""What the array does not take: it runs on the host with a reason, or the program is refused with a remedy."""

from __future__ import annotations

import pytest
import torch
from fxpress.backends.systolic.architecture import Architecture
from fxpress.backends.systolic.compiler import ArrayStage, HostStage, lower
from fxpress.backends.systolic.compiler.float_layers import split_float_layers
from fxpress.errors import Unsupported
from fxpress.ops import fxpress
from fxpress.testing import op_counts, trace
from quantized_programs import Builder
from test_systolic_layers import check

aten = torch.ops.aten
MACHINE = Architecture.parse("preset=edge")


def test_a_float_program_is_refused() -> None:
    program = trace(torch.nn.Linear(3, 4), torch.randn(2, 3))
    with pytest.raises(Unsupported, match=r'must compute with 8-bit integers.*config="int8-hardware"'):
        lower(program, MACHINE)
    nothing = trace(lambda x: x, torch.randn(2, 3))
    with pytest.raises(Unsupported, match=r"none of its 0 ops does; quantise it.*, or compile it with target='cpu'"):
        lower(nothing, MACHINE)


def test_float_requantisation_is_refused() -> None:
    b = Builder()
    program = b.program(b.conv(b.input(1, 4, 4, 3), 5, [1, 1], mode="F"))
    with pytest.raises(
        Unsupported, match=r"(?s)must requantise in fixed point.*%quantized_conv: fxpress.quantized_con"
    ):
        lower(program, MACHINE)


def test_stages_alternate() -> None:
    b = Builder()
    x = b.input(1, 6, 6, 3, dtype=torch.float32)
    y = b.conv(b.call(fxpress.quantize.default, x, 0.03, 4), 8, [3, 3])
    norm = b.call(aten.sigmoid.default, b.call(fxpress.dequantize.default, y, 0.1, 3))
    z = b.linear(b.call(fxpress.quantize.default, norm, 0.004, -128), 5, as_float=True)
    compiled = check(b.program(z), MACHINE)
    assert [type(stage) for stage in compiled.stages] == [HostStage, ArrayStage, HostStage, ArrayStage, HostStage]
    assert compiled.reasons["sigmoid"] == "aten.sigmoid.default is no op of the array"
    assert set(compiled.reasons) == {"quantize", "dequantize", "sigmoid", "quantize_1", "add", "_to_copy", "mul"}


def test_a_result_may_be_a_constant() -> None:
    b = Builder()
    y = b.linear(b.input(2, 8), 3)
    compiled = check(b.program(y, y.args[1]), MACHINE)
    assert [type(stage) for stage in compiled.stages] == [HostStage, ArrayStage]


def test_a_product_with_zero_points_runs_on_the_host() -> None:
    b = Builder()
    y = b.matmul(b.input(2, 5, 7), b.input(2, 7, 3), zeros=(1, 0))
    z = b.linear(y, 4)
    compiled = check(b.program(z), MACHINE)
    assert compiled.reasons["quantized_matmul"].startswith("zero points of both operands of a product must be 0")
    wrong = Builder()
    with pytest.raises(Unsupported, match=r"(?s)at least one layer must fit.*%quantized_matmul: zero points"):
        lower(wrong.program(wrong.matmul(wrong.input(5, 7), wrong.input(7, 3), zeros=(1, 0))), MACHINE)


def test_a_float_layer_that_is_refused_stays_whole() -> None:
    b = Builder()
    x = b.input(2, 5, 7)
    scores = b.matmul(x, b.input(2, 7, 3), zeros=(0, 9), as_float=True)
    compiled = check(b.program(scores, b.linear(x, 4)), MACHINE)
    assert list(compiled.reasons) == ["quantized_matmul_float"]


def test_split_float_layers_keeps_every_bit() -> None:
    b = Builder()
    x, r = b.input(2, 6, 9), b.input(2, 6, 11, dtype=torch.float32)
    program = b.program(b.linear(x, 11, residual=r, as_float=True), b.matmul(x, b.input(2, 9, 4), as_float=True))
    split = split_float_layers(program)
    counts = op_counts(split)
    assert (counts["linear_sums"], counts["matmul_sums"]) == (1, 1)
    found, wanted = (p.run_flat(*program.example_inputs) for p in (split, program))
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    kept = split_float_layers(program, {"quantized_linear_float"})
    assert op_counts(kept)["quantized_linear_float"] == 1


def test_sums_that_may_overflow_run_on_the_host() -> None:
    b = Builder()
    x = b.input(1, 300_000)
    y = b.linear(x, 1)
    z = b.linear(b.input(1, 8), 3)
    compiled = lower(b.program(y, z), MACHINE)
    assert compiled.reasons["quantized_linear"].startswith("its sums of products may leave 32 bits")


def test_windows_are_made_by_the_host_where_channels_are_few() -> None:
    b = Builder()
    program = b.program(b.conv(b.input(1, 20, 20, 3), 16, [5, 5], stride=[2, 2], padding=[2, 2, 2, 2]))
    stage = check(program, MACHINE).stages[0]
    assert isinstance(stage, ArrayStage)
    windows = stage.program.inputs[0].layout.windows
    assert windows is not None
    assert windows.kernel == (5, 5)
    b = Builder()
    stage = check(b.program(b.conv(b.input(1, 20, 20, 8), 16, [3, 3])), MACHINE).stages[0]
    assert isinstance(stage, ArrayStage)
    assert stage.program.inputs[0].layout.windows is None


def test_inputs_and_outputs_have_scales() -> None:
    b = Builder()
    x = b.input(1, 6, 6, 3, dtype=torch.float32)
    y = b.max_pool(b.conv(b.call(fxpress.quantize.default, x, 0.03, 4), 8, [3, 3]), [2, 2], [2, 2], [0, 0])
    z = b.lookup(y)
    compiled = check(b.program(y, z, b.requantize(z)), MACHINE)
    stage = compiled.stages[1]
    assert isinstance(stage, ArrayStage)
    assert [(v.scale, v.zero) for v in stage.program.inputs] == [(0.03, 4)]
    requantized = next(n for n in b.rw.program.nodes if n.target is fxpress.requantize.default)
    pooled, looked_up, last = stage.program.outputs
    assert pooled.scale == pytest.approx(0.02 * 27**0.5)
    assert (looked_up.scale, looked_up.zero) == requantized.args[1:3]
    assert (last.scale, last.zero) == requantized.args[3:5]
