"""What no result depends on goes; results, inputs and what they need stay."""

from __future__ import annotations

import torch
from fxpress import Rewriter
from fxpress.testing import check_pass, op_counts, trace

aten = torch.ops.aten


def test_fires():
    program = trace(lambda x: x.relu(), torch.randn(3))
    rw, (relu,) = Rewriter(program), program.results
    total = rw.call(aten.add.Tensor, relu.args[0], rw.constant("litter", torch.ones(3)), at=relu)
    rw.call(aten.exp.default, total, at=relu)
    assert op_counts(program) == {"add": 1, "exp": 1, "relu": 1}
    after = check_pass("drop-dead-code", program)
    assert op_counts(after) == {"relu": 1}
    assert after.constants == {}


def test_does_not_fire():
    program = trace(lambda x, unused: (x.relu(), x), torch.randn(3), torch.randn(2))
    after = check_pass("drop-dead-code", program)
    assert after.text() == program.text()
    assert len(after.placeholders) == 2
