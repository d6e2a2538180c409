"""Layers whose operands are 16-bit floats."""

from __future__ import annotations

import fxpress
import pytest
import torch
from fxpress.errors import InvalidInput
from fxpress.passes.quantization.narrow_floats import NarrowFloats
from fxpress.testing import op_counts
from torch import nn


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.ReLU()]
    tail = [nn.Conv2d(16, 24, 1), nn.Flatten(), nn.Linear(24 * 36, 32), nn.GELU(), nn.Linear(32, 5)]
    return nn.Sequential(*layers, *tail).eval().requires_grad_(False)


X = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_layers_are_narrow_and_near(model, name):
    config = fxpress.quantization.QuantConfig(float_dtype=name)
    program = fxpress.quantize(model, config, args=(X,))
    counts = op_counts(program)
    assert (counts["narrow_conv"], counts["narrow_linear"], counts["conv"]) == (2, 2, 1)
    expected = model(X)
    assert (program.run(X) - expected).norm() < (2e-2 if name == "bfloat16" else 2e-3) * expected.norm()
    wanted = {"bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    assert sum(c.dtype == wanted for c in program.constants.values()) == 4
    artifact = fxpress.compile(program)
    assert (torch.as_tensor(artifact(X)) - expected).norm() < 2e-2 * expected.norm()


def test_a_result_that_only_layers_read_stays_narrow(model):
    program = fxpress.quantize(model, "bf16", args=(X,))
    last = [node for node in program.nodes if "narrow_linear" in str(node.target)]
    assert [node.meta["val"].dtype for node in last] == [torch.bfloat16, torch.float32]
    assert last[1].args[0] is last[0]


def test_scopes(model):
    counts = op_counts(fxpress.quantize(model, "bf16", args=(X,), ignore="fxpress.linear.default"))
    assert counts["linear"] == 2
    with pytest.raises(InvalidInput, match="match"):
        fxpress.quantize(model, "bf16", args=(X,), ignore="nothing")


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(50, 16), nn.Linear(16, 4)

    def forward(self, ids):
        return self.head(self.table(ids))


def test_embedding_tables_are_narrow():
    torch.manual_seed(0)
    tagger, ids = Tagger().eval().requires_grad_(False), torch.randint(50, (2, 7))
    program = fxpress.quantize(tagger, "bf16", args=(ids,))
    assert [c.dtype for c in program.constants.values() if c.dim() == 2] == [torch.bfloat16] * 2
    expected = tagger(ids)
    assert (program.run(ids) - expected).norm() < 2e-2 * expected.norm()
    artifact = fxpress.compile(program)
    torch.testing.assert_close(torch.as_tensor(artifact(ids)), program.run(ids), rtol=1e-2, atol=1e-2)
    kept = fxpress.quantize(tagger, "bf16", args=(ids,), ignore="aten.embedding.default")
    assert kept.constants["table_weight"].dtype == torch.float32


def test_other_dtypes_are_refused():
    with pytest.raises(InvalidInput, match=r"^dtype must be one of \['bfloat16', 'float16'\], not 'float8'$"):
        NarrowFloats("float8")


def test_weights_beyond_the_range_stay():
    layer = nn.Linear(4, 4).requires_grad_(False)
    layer.weight[0, 0] = 1e6
    x = torch.randn(2, 4)
    config = fxpress.passes.quantization.scheme.QuantConfig(float_dtype="float16")
    program = fxpress.quantize(layer, config, args=(x,))
    assert op_counts(program) == {"linear": 1}
    (reason,) = [note for record in program.history for note in record.skipped if "stays float32" in note]
    assert reason.endswith(": stays float32: its weight holds numbers that are not finite in float16")
