"""Weights with zeros in the form that the target's kernels read, or that takes fewest bytes."""

from __future__ import annotations

import re

import fxpress
import pytest
import torch
from fxpress.backends.tvm.kernels.conv_shape import ConvShape
from fxpress.backends.tvm.kernels.winograd import profitable
from fxpress.ops import fxpress as ops
from fxpress.pass_manager import PassManager
from fxpress.sparsity import uses_winograd
from fxpress.target import Target
from fxpress.testing import check_pass, op_counts, trace
from torch import nn

TARGET = Target.parse("cpu{isa=avx512,cores=2,l1=49152,l2=2097152}")
NARROW = Target.parse("cpu{isa=avx2,cores=2,l1=32768,l2=1048576}")
ROWS = torch.randn(20, 128)


def zeroed(module: nn.Module, r: int, share: float) -> nn.Module:
    """The module, `share` of whose weights are zero in blocks of r outputs x 1 input."""
    with torch.no_grad():
        weight = module.weight
        held = torch.rand(-(-len(weight) // r), *weight.shape[1:]) >= share
        weight.mul_(held.repeat_interleave(r, 0)[: len(weight)])
    return module.eval().requires_grad_(False)


def fused(module, *inputs):
    return PassManager("default{pack=false}", target=TARGET).run(trace(module.eval(), *inputs))


def packed(module, x, target=TARGET):
    return check_pass("pack-sparse", fused(module, x), target=target)


def notes(program):
    return " ".join((*program.history[-1].rewrites, *program.history[-1].skipped))


def test_text(golden):
    module = nn.Sequential(
        zeroed(nn.Conv2d(64, 256, 1), 32, 0.75), nn.ReLU(), zeroed(nn.Conv2d(256, 64, 1, bias=False), 1, 0.6)
    )
    program = packed(module, torch.randn(1, 64, 5, 4))
    golden("\n".join([*program.history[-1].rewrites, program.text()]))


@pytest.mark.parametrize(
    ("r", "share", "target", "found"),
    [
        (16, 0.8, TARGET, "16x1"),
        (32, 0.8, TARGET, "32x1"),
        (64, 0.2, TARGET, "32x1"),
        (8, 0.8, NARROW, "8x1"),
        (16, 0.8, NARROW, "16x1"),
        (8, 0.9, TARGET, "16x1"),  # two of the narrow blocks become one
        (1, 0.995, TARGET, "16x1"),
    ],
)
def test_blocks_are_as_wide_as_pays(r, share, target, found):
    program = packed(zeroed(nn.Linear(128, 256), r, share), ROWS, target)
    assert f"of its {found} blocks are left" in notes(program)
    assert op_counts(program) == {"unpack_blocks": 1, "linear": 1}


def test_whole_rows_and_all_of_a_weight_may_be_zero():
    module = zeroed(nn.Linear(128, 256), 16, 0.5)
    module.weight[64:192] = 0
    assert op_counts(packed(module, ROWS)) == {"unpack_blocks": 1, "linear": 1}
    module.weight[:] = 0
    assert "0.0% of its 16x1 blocks are left" in notes(packed(module, ROWS))


@pytest.mark.parametrize("rows", [1, 8])
def test_few_rows_read_a_mask_when_weights_come_from_memory(rows):
    tiny = Target.parse("cpu{isa=avx512,cores=1,l2=65536}")
    module, x = zeroed(nn.Linear(128, 256), 1, 0.5), torch.randn(rows, 128)
    assert "which a few rows read sooner" in notes(packed(module, x, tiny))
    assert "no kernel gains" in notes(packed(module, x))  # the caches hold it


def test_many_rows_do_not_gain_by_a_mask():
    tiny = Target.parse("cpu{isa=avx512,cores=1,l2=65536}")
    program = packed(zeroed(nn.Linear(128, 256), 1, 0.5), torch.randn(9, 128), tiny)
    assert re.search(
        r"no kernel gains by the 50\.\d% of it that are zero; stored in 5\d\.\d% of its bytes", notes(program)
    )


def test_grouped_convolutions_are_only_stored():
    program = packed(zeroed(nn.Conv2d(128, 256, 3, groups=2), 32, 0.8), torch.randn(1, 128, 6, 6))
    assert op_counts(program)["unpack_masked"] == 1
    assert "no kernel gains" in notes(program)


def test_fewer_blocks_must_be_left_where_winograd_multiplies_less():
    x = torch.randn(1, 64, 16, 16)
    stays = packed(zeroed(nn.Conv2d(64, 64, 3, padding=1), 32, 0.5), x)
    assert op_counts(stays)["unpack_masked"] == 1
    assert op_counts(packed(zeroed(nn.Conv2d(64, 64, 3, padding=1), 32, 0.75), x))["unpack_blocks"] == 1
    assert op_counts(packed(zeroed(nn.Conv2d(64, 64, 3, stride=2), 32, 0.5), x))["unpack_blocks"] == 1


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = zeroed(nn.Linear(128, 128), 32, 0.8)
        self.also = False

    def forward(self, x):
        y = self.layer(self.layer(x).relu())
        return y + self.layer.weight.sum(0) * x.mean() if self.also else y


def test_layers_may_share_a_weight():
    program = packed(Shared(), ROWS)
    assert op_counts(program) == {"unpack_blocks": 1, "linear": 2}


def test_a_weight_that_is_read_otherwise_stays():
    module = Shared()
    module.also = True
    before = PassManager("normalize-linear", target=TARGET).run(trace(module, ROWS))
    program = check_pass("pack-sparse", before, target=TARGET)
    assert "unpack_blocks" not in op_counts(program)
    assert "more than the layers of which it is the weight read it" in notes(program)


def test_small_weights_stay():
    program = packed(zeroed(nn.Linear(64, 128), 32, 0.8), torch.randn(20, 64))
    assert op_counts(program) == {"linear": 1}
    assert "fewer than 16384 elements" in notes(program)


def test_too_few_zeros_stay_with_a_reason_and_dense_weights_without():
    program = packed(zeroed(nn.Linear(128, 256), 1, 0.1), ROWS)
    assert op_counts(program) == {"linear": 1}
    assert "stays dense: 90.0% of it is left, too much for a sparse kernel and for a smaller file" in notes(program)
    assert notes(packed(nn.Linear(128, 256), ROWS)) == ""


def test_biases_and_other_constants_stay():
    addend = torch.zeros(20, 1024)
    before = trace(lambda x: x + addend, torch.randn(20, 1024))
    assert op_counts(check_pass("pack-sparse", before, target=TARGET)) == {"add": 1}


@pytest.mark.parametrize("target", [None, Target.parse("systolic{rows=8,cols=8}")], ids=["none", "systolic"])
def test_only_for_cpus(target):
    program = PassManager("pack-sparse", target=target).run(fused(zeroed(nn.Linear(128, 256), 32, 0.8), ROWS))
    assert op_counts(program) == {"linear": 1}


def test_fuel_ends():
    before = fused(zeroed(nn.Linear(128, 256), 32, 0.8), ROWS)
    assert op_counts(PassManager("pack-sparse", target=TARGET, fuel=0).run(before)) == {"linear": 1}


def test_the_default_pipeline_packs_and_leaves_packed_weights():
    module = zeroed(nn.Linear(128, 256), 32, 0.8)
    once = PassManager("default", target=TARGET).run(trace(module, ROWS))
    assert op_counts(once)["unpack_blocks"] == 1
    assert PassManager("default", target=TARGET).run(once).text() == once.text()
    assert "unpack_blocks" not in op_counts(PassManager("default{level=1}", target=TARGET).run(trace(module, ROWS)))


def test_quantising_sees_plain_weights():
    module = zeroed(nn.Linear(128, 256), 32, 0.8)
    program = fxpress.quantize(module, "int8-weights", args=(ROWS,), target=TARGET, profitable="off", verify="off")
    assert "unpack" not in program.text()


def test_winograd_is_expected_where_the_kernels_have_it():
    answers = set()
    for kernel, stride, side, ic, oc, batch in [
        ((3, 3), 1, 14, 64, 64, 1), ((3, 3), 2, 14, 64, 64, 1), ((3, 3), 1, 7, 64, 64, 1), ((3, 3), 1, 7, 64, 64, 8),
        ((3, 3), 1, 28, 16, 64, 1), ((5, 5), 1, 28, 64, 64, 1), ((3, 3), 1, 5, 64, 64, 9), ((1, 1), 1, 28, 64, 64, 1),
    ]:  # fmt: skip
        shape = ConvShape(
            batch=batch, height=side, width=side, ic=ic, oc=oc, kernel=kernel, stride=(stride, stride),
            x_strides=(1, 1, ic), y_strides=(1, 1, oc),
        )  # fmt: skip
        expected = profitable(shape, TARGET)
        assert uses_winograd(kernel, (stride, stride), (1, 1), (batch, side, side, ic, oc), TARGET) == expected
        answers.add(expected)
    assert answers == {True, False}


def test_packed_ops_are_what_layers_read():
    program = packed(zeroed(nn.Linear(128, 256), 32, 0.8), ROWS)
    (layer,) = [node for node in program.nodes if node.target is ops.linear.default]
    assert layer.args[1].target is ops.unpack_blocks.default
    assert layer.args[1].args[0].meta["val"].shape[1:] == (32, 1)
