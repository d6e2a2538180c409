"""Weights stored as a codebook: expanded at load for every kernel, small in the file."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.errors import Unsupported
from fxpress.ops import fxpress as ops
from fxpress.pass_manager import PassManager
from fxpress.rewriter import rewrite
from fxpress.testing import trace
from torch import nn

aten = torch.ops.aten

CASES = {
    "linear": (nn.Linear(200, 150), torch.randn(3, 200)),
    "one row": (nn.Linear(200, 150), torch.randn(1, 200)),
    "convolution": (nn.Conv2d(50, 130, (3, 3), stride=2, padding=1), torch.randn(1, 50, 9, 9)),
    "grouped": (nn.Conv2d(132, 260, 1, groups=2), torch.randn(1, 132, 7, 7)),
    "depthwise": (nn.Conv2d(2048, 2048, 3, groups=2048), torch.randn(1, 2048, 5, 5)),
    "winograd": (nn.Conv2d(64, 72, 3, padding=1), torch.randn(1, 64, 24, 24)),
    "transposed": (nn.ConvTranspose2d(70, 66, 3, stride=2), torch.randn(1, 70, 6, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_layers(name):
    module, x = CASES[name]
    program = PassManager("default,cluster-weights").run(trace(module, x))
    assert "codebook" in program.text()
    artifact = fxpress.compile(program)
    torch.testing.assert_close(artifact(x), program.run(x), rtol=1e-4, atol=1e-5)


def test_the_file_holds_a_byte_a_weight(tmp_path):
    module, x = nn.Linear(512, 512, bias=False), torch.randn(2, 512)
    program = PassManager("default,cluster-weights").run(trace(module, x))
    memory = fxpress.compile(program).manifest["memory"]
    whole = fxpress.compile(module, (x,)).manifest["memory"]
    assert memory["derived"] >= 4 * 512 * 512
    assert whole["derived"] == 0
    fxpress.compile(program).save(tmp_path / "small.fxp")
    fxpress.compile(module, (x,)).save(tmp_path / "whole.fxp")
    assert (tmp_path / "small.fxp").stat().st_size < (tmp_path / "whole.fxp").stat().st_size - 2.5 * 512 * 512


def with_codebook(indices, values, x, as_weight=True):
    """A Program of a linear layer whose weight is that codebook, or that plus 1, multiplied as any matrix."""

    @rewrite(ops.linear.default, accuracy="lossy")
    def use_codebook(node, rw):
        """linear(x, w)  ->  linear(x, codebook(indices, values))"""
        if node.args[1].op != "get_attr":
            return
        parts = rw.constant("indices", indices), rw.constant("values", values)
        weight = rw.call(ops.codebook.default, *parts, at=node)
        if as_weight:
            rw.replace(node, rw.call(ops.linear.default, node.args[0], weight, *node.args[2:], at=node))
            return
        other = rw.call(aten.add.Tensor, weight, 1.0, at=node)
        turned = rw.call(aten.permute.default, other, [1, 0], at=node)
        rw.replace(node, rw.call(aten.matmul.default, node.args[0], turned, at=node))

    return PassManager(["default", use_codebook]).run(trace(nn.Linear(129, 130, bias=False), x))


@pytest.mark.parametrize("count", [3, 255, 256])
@pytest.mark.parametrize("as_weight", [True, False])
def test_tables_without_zero(count, as_weight):
    indices, values = torch.randint(0, count, (130, 129), dtype=torch.uint8), torch.randn(count) + 5
    x = torch.randn(2, 129)
    program = with_codebook(indices, values, x, as_weight)
    artifact = fxpress.compile(program, pipeline="")
    torch.testing.assert_close(artifact(x), program.run(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("indices", "values", "reason"),
    [
        (torch.zeros(130, 129, dtype=torch.int32), torch.randn(4), "its indices must be torch.uint8, not torch.int32"),
        (torch.zeros(130, 129, dtype=torch.uint8), torch.randn(300), "it must have at most 256 values, not 300"),
    ],
)
def test_refused(indices, values, reason):
    program = with_codebook(indices, values, torch.randn(2, 129))
    with pytest.raises(Unsupported, match=reason):
        fxpress.compile(program, pipeline="")
